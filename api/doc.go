// Package api is what a broker shows over HTTP: metrics and health for everybody, and for its owner the admin interface.
//
// It knows HTTP and what [broker.Broker] tells about itself. It refuses to know listeners: who can reach a handler is decided
// by whoever serves it. [Admin] must only be served on a Unix socket that nobody but the owner can open: it has no login.
package api
