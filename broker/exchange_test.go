package broker

import (
	"context"

	"github.com/magpiemq/magpie/mqtt"
)

// toy is an Authentication Method: the client has to answer "marco" with "polo", then with the name of its user.
type toy struct {
	grant Grant
	users map[string]Grant
}

func (toy) Method() string { return "toy" }

func (y toy) Start(*ConnectRequest) (Exchange, error) { return &toyRun{toy: y}, nil }

type toyRun struct {
	toy
	step int
}

func (x *toyRun) Next(_ context.Context, data []byte) (reply []byte, done bool, err error) {
	x.step++
	switch {
	case x.step == 1 && len(data) == 0:
		return []byte("marco"), false, nil
	case x.step == 2 && string(data) == "polo":
		return []byte("who?"), false, nil
	case x.step == 3:
		g, known := x.users[string(data)]
		if !known {
			return nil, false, mqtt.BadUserNameOrPassword
		}
		x.grant = g
		return []byte("hello " + g.User), true, nil
	}
	return nil, false, mqtt.NotAuthorized
}

func (x *toyRun) Grant() Grant { return x.grant }
