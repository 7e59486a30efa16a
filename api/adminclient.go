package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// AdminClient talks to the admin interface of a running broker. It is safe for many goroutines.
type AdminClient struct {
	http *http.Client
}

// NewAdminClient returns a client for the interface behind a Unix socket. It does not connect yet; Close ends what is open.
func NewAdminClient(socket string) *AdminClient {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &AdminClient{&http.Client{Transport: &http.Transport{DialContext: dial, ResponseHeaderTimeout: 10 * time.Second}}}
}

// Close lets idle connections go.
func (c *AdminClient) Close() { c.http.CloseIdleConnections() }

// Clients returns the clients that are connected, or with all every session, by ClientID.
func (c *AdminClient) Clients(ctx context.Context, all bool) (list []Client, err error) {
	q := url.Values{}
	if all {
		q.Set("all", "1")
	}
	err = c.get(ctx, "/clients", q, &list)
	return list, err
}

// Subscriptions returns the subscriptions of a client, by filter.
func (c *AdminClient) Subscriptions(ctx context.Context, id string) (list []Subscription, err error) {
	err = c.get(ctx, "/subscriptions", url.Values{"client": {id}}, &list)
	return list, err
}

// Stats returns the broker's numbers.
func (c *AdminClient) Stats(ctx context.Context) (st Stats, err error) {
	err = c.get(ctx, "/stats", nil, &st)
	return st, err
}

// Kick ends the connection of a client, and with forget its session.
func (c *AdminClient) Kick(ctx context.Context, id string, forget bool) error {
	q := url.Values{"client": {id}}
	if forget {
		q.Set("forget", "1")
	}
	return c.post(ctx, "/kick", q)
}

// Reload makes the broker read its configuration again, and waits for that.
func (c *AdminClient) Reload(ctx context.Context) error { return c.post(ctx, "/reload", nil) }

// Shutdown asks the broker to stop. It does not wait for that.
func (c *AdminClient) Shutdown(ctx context.Context) error { return c.post(ctx, "/shutdown", nil) }

// Events streams clients coming and going to f, on a goroutine of its own, until stop is called or the broker ends, and then
// calls end, if it is not nil. Nothing is missed from the moment that Events returns.
func (c *AdminClient) Events(ctx context.Context, f func(Event), end func()) (stop func(), err error) {
	return c.stream(ctx, "/events", nil, f, end)
}

// Trace streams messages to f in the way of Events: all that are published, those that match a filter, or those of one client.
// An empty client or filter means any.
func (c *AdminClient) Trace(ctx context.Context, client, filter string, f func(Event)) (stop func(), err error) {
	return c.stream(ctx, "/trace", url.Values{"client": {client}, "filter": {filter}}, f, nil)
}

// do sends a request and makes an error of an answer that is one. The caller closes the body.
func (c *AdminClient) do(ctx context.Context, method, path string, q url.Values) (io.ReadCloser, error) {
	resp, err := c.send(ctx, method, path, q)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// send is do with all that was answered.
func (c *AdminClient) send(ctx context.Context, method, path string, q url.Values) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "broker", Path: path, RawQuery: q.Encode()}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if ue := (*url.Error)(nil); errors.As(err, &ue) {
		return nil, ue.Err // without the URL, which means nothing to anybody
	} else if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	return resp, nil
}

func (c *AdminClient) get(ctx context.Context, path string, q url.Values, into any) error {
	body, err := c.do(ctx, http.MethodGet, path, q)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(into); err != nil {
		return fmt.Errorf("read the broker's answer: %w", err)
	}
	_, err = io.Copy(io.Discard, body)
	return err
}

func (c *AdminClient) post(ctx context.Context, path string, q url.Values) error {
	body, err := c.do(ctx, http.MethodPost, path, q)
	if err != nil {
		return err
	}
	return body.Close()
}

func (c *AdminClient) stream(ctx context.Context, path string, q url.Values, f func(Event), end func()) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	body, err := c.do(ctx, http.MethodGet, path, q)
	if err != nil {
		cancel()
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer body.Close()
		for in := json.NewDecoder(body); ; {
			var e Event
			if in.Decode(&e) != nil {
				break
			}
			f(e)
		}
		if end != nil {
			end()
		}
	}()
	return func() { cancel(); <-done }, nil
}
