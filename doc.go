// Package magpie is the root of Magpie, an IoT message platform. The packages below it are the parts: start with broker to
// embed the MQTT server, or with ARCHITECTURE.md to see how they fit together.
package magpie
