package journal

import (
	"testing"

	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store"
)

// TestNobodyIsRefusedForWantOfAFile: records that come faster than files are made, and records larger than those, wait for a file. A
// refusal would be told to clients as if the disk were full.
func TestNobodyIsRefusedForWantOfAFile(t *testing.T) {
	s, err := OpenStore(vfs.NewMem(), "j", StoreOptions{Log: Options{SegmentSize: 8 << 10}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Restore(func(Position, *store.Record) error { return nil }); err != nil {
		t.Fatal(err)
	}
	s.Maintain(store.Upkeep{Checkpoint: func(emit func(*store.Record) error) error {
		for range 20 {
			if err := emit(&store.Record{Kind: store.Session, Session: 1, ClientID: string(make([]byte, 4000))}); err != nil {
				t.Errorf("in a checkpoint: %v", err)
				return err
			}
		}
		return nil
	}})
	for i := range 400 {
		size := 4 << 10
		if i%50 == 0 {
			size = 100 << 10
		}
		r := store.Record{Kind: store.Accepted, Message: &mqtt.Message{Topic: "a", Payload: make([]byte, size), QoS: 1}}
		if _, err := s.Append(&r); err != nil {
			t.Fatalf("message %d of %d bytes: %v", i, size, err)
		}
		done := store.Record{Kind: store.Done, Session: 1, About: 1}
		if _, err := s.Append(&done); err != nil {
			t.Fatalf("acknowledgement %d: %v", i, err)
		}
	}
}
