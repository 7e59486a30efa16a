package auth_test

import (
	"context"
	"fmt"

	"github.com/magpiemq/magpie/auth"
	"github.com/magpiemq/magpie/broker"
)

func ExampleACL_Explain() {
	acl, err := auth.ParseACL("acl.txt", []byte("user anna\ntopic readwrite home/#\ntopic deny home/safe\n"))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, name := range []string{"home/lamp", "home/safe", "garden"} {
		_, _, why := acl.Explain("phone", "anna", broker.Write, name)
		fmt.Println(why)
	}
	// Output:
	// yes: acl.txt:2 "home/#" allows it
	// no: acl.txt:3 "home/safe" denies it
	// no: acl.txt: no line allows it
}

// Known users by password, others as nobody in particular, and whoever guesses is slowed down.
func ExampleThrottle() {
	a := &auth.Throttle{Next: auth.Chain{
		auth.Static{"u001": "p001"},
		auth.Anonymous{},
	}}
	g, err := a.Authenticate(context.Background(), &broker.ConnectRequest{
		ClientID: "c001", HasUsername: true, Username: "u001", HasPassword: true, Password: []byte("p001"),
	})
	fmt.Println(g.User, err)
	// Output: u001 <nil>
}
