package store

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/magpiemq/magpie/mqtt"
)

// TestViewer: a viewer reads what Parse reads, and what may be kept does not change when it goes on.
func TestViewer(t *testing.T) {
	type keepable struct{ got, want *mqtt.Message }
	var v Viewer
	var kept []keepable
	var b []byte
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 3))
		k := Kind(1 + seed%uint64(Retained))
		x := randomRecord(r, k)
		b = x.Append(b[:0]) // over the bytes of the one before
		var want Record
		if err := want.Parse(k, b); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		got, err := v.Record(k, b)
		if err != nil {
			t.Fatalf("seed %d: kind %d: %v", seed, k, err)
		}
		if !reflect.DeepEqual(viewNormal(*got), viewNormal(want)) {
			t.Fatalf("seed %d: kind %d:\ngot  %+v\nwant %+v", seed, k, got, want)
		}
		if got.Will != nil {
			kept = append(kept, keepable{got.Will.Message, want.Will.Message})
		}
		if got.Message != nil && got.Message.Retain {
			kept = append(kept, keepable{got.Message, want.Message})
		}
		for n := range b {
			if _, err := v.Record(k, b[:n]); err == nil {
				t.Fatalf("seed %d: kind %d: no error when cut to %d of %d bytes", seed, k, n, len(b))
			}
		}
	}
	for _, m := range kept {
		if !reflect.DeepEqual(m.got, m.want) {
			t.Fatalf("a message that may be kept has become %+v, was %+v", m.got, m.want)
		}
	}
	if len(kept) < 100 {
		t.Fatalf("only %d messages that may be kept", len(kept))
	}
}

// viewNormal makes empty and nil lists equal.
func viewNormal(r Record) Record {
	r = normal(r)
	r.Recipients = append([]Recipient{}, r.Recipients...)
	for i := range r.Recipients {
		r.Recipients[i].IDs = append([]uint32{}, r.Recipients[i].IDs...)
	}
	return r
}
