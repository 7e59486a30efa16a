package broker_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/magpiemq/magpie/broker"
	"github.com/magpiemq/magpie/internal/vfs"
	"github.com/magpiemq/magpie/mqtt"
	"github.com/magpiemq/magpie/store/journal"
)

// openDisk opens the store on a disk in memory, with segments that are soon full.
func openDisk(t *testing.T, disk vfs.FS) *journal.Store {
	t.Helper()
	s, err := journal.OpenStore(disk, "j", journal.StoreOptions{Log: journal.Options{SegmentSize: 64 << 10}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// TestA23DiskFull: the attacker fills the disk with messages for a session that nobody comes back to. What has no space is refused with
// 0x97, and MQTT 3 is closed; what was taken is delivered and acknowledged while the disk is full; when there is space again
// everything goes on without a restart. A restart finds all that was taken.
func TestA23DiskFull(t *testing.T) {
	disk := vfs.NewMem()
	var taken []string
	t.Run("fill", func(t *testing.T) {
		a := newArena(t, broker.Config{Store: openDisk(t, disk)})
		r := a.loginAs(sessionFor(mqtt.V5, "r", "reader"))
		r.subscribe("a23/#", mqtt.AtLeastOnce, 1)
		r.shut()
		a.away("reader")
		disk.SetCapacity(1 << 20)
		taken = a.fillDisk()
		old := a.login(mqtt.V311, "a23-old")
		old.throw((&mqtt.Publish{QoS: mqtt.AtLeastOnce, PacketID: 1, Topic: []byte("a23/x"), Payload: make([]byte, 60_000)}).Append(nil, mqtt.V311))
		old.mustEnd("no space")
		r = a.loginAs(sessionFor(mqtt.V5, "r", "reader"))
		for i, want := range taken[:len(taken)/2] {
			if m := r.message(true); string(m.Payload[:9]) != want {
				t.Fatalf("message %d is %.9q, want %q", i, m.Payload, want)
			}
		}
		r.shut()
		disk.SetCapacity(0)
		f := a.login(mqtt.V5, "a23-later")
		a.eventually("there is space again", func() bool { return !f.publish("other", "x", mqtt.AtLeastOnce, true).Failed() })
		if code := f.publish("a23/x", "000000end", mqtt.AtLeastOnce, false); code.Failed() {
			t.Errorf("with space: %v", code)
		}
	})
	t.Run("restart", func(t *testing.T) {
		a := newArena(t, broker.Config{Store: openDisk(t, disk)})
		r := a.loginAs(sessionFor(mqtt.V5, "r", "reader"))
		next := 0
		for {
			m := r.message(true)
			if string(m.Payload) == "000000end" {
				break
			}
			for next < len(taken) && taken[next] != string(m.Payload[:9]) { // those before were acknowledged
				next++
			}
		}
		if next != len(taken)-1 {
			t.Errorf("the last message that came is %d of %d", next, len(taken))
		}
	})
}

// fillDisk publishes until many messages were refused one after the other, and returns how those begin that were not.
func (a *arena) fillDisk() (taken []string) {
	a.Helper()
	f := a.login(mqtt.V5, "a23")
	for i, refused := 0, 0; refused < 50; i++ {
		name := fmt.Sprintf("%09d", i)
		switch code := f.publish("a23/x", name+strings.Repeat("x", 10_000), mqtt.AtLeastOnce, false); code {
		case mqtt.Success:
			refused, taken = 0, append(taken, name)
		case mqtt.QuotaExceeded:
			refused++
		default:
			a.Fatalf("message %d: %v", i, code)
		}
		if i > 1000 {
			a.Fatal("the disk takes more than it has")
		}
	}
	return taken
}

// TestA23Failed: the disk does not take what it is given. Nobody is told that anything was taken, everybody is sent away, and Serve
// says why.
func TestA23Failed(t *testing.T) {
	disk := vfs.NewFaulty(vfs.NewMem())
	b, err := broker.New(broker.Config{Store: openDisk(t, disk), SysInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	ln := attackListen(t, plainNamed("plain"))
	served := make(chan error, 1)
	go func() { served <- b.Serve(t.Context(), ln) }()
	a := &arena{T: t, broker: b, addr: ln.Addr().String()}
	r := a.loginAs(sessionFor(mqtt.V5, "r", "reader"))
	r.subscribe("a23", mqtt.AtLeastOnce, 1)
	f := a.login(mqtt.V5, "a23")
	disk.Set(vfs.Fault{Op: vfs.OpSync, Nth: 1, Forever: true, Err: syscall.EIO})
	f.throw((&mqtt.Publish{QoS: mqtt.AtLeastOnce, PacketID: 1, Topic: []byte("a23"), Payload: []byte("x")}).Append(nil, mqtt.V5))
	for {
		p, err := f.read()
		if attackEnded(err) {
			break
		}
		if err != nil || p.Type == mqtt.PUBACK {
			t.Fatalf("%s, %v", p.Type, err)
		}
	}
	r.end()
	select {
	case err := <-served:
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("Serve returns %v", err)
		}
	case <-time.After(attackPatience):
		t.Fatal("Serve does not end")
	}
	if err := b.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestA23Damaged: what is in the folder was overwritten, cut, or filled with NUL. The store opens with what it can be sure of, or says in
// one line what is wrong and changes nothing; it never makes anything up.
func TestA23Damaged(t *testing.T) {
	whole := vfs.NewMem()
	t.Run("fill", func(t *testing.T) {
		a := newArena(t, broker.Config{Store: openDisk(t, whole)})
		r := a.loginAs(sessionFor(mqtt.V5, "r", "reader"))
		r.subscribe("a23/#", mqtt.AtLeastOnce, 1)
		r.shut()
		a.away("reader")
		f := a.login(mqtt.V5, "a23")
		for i := range 200 {
			f.publish(fmt.Sprint("a23/", i%20), fmt.Sprintf("%09d", i), mqtt.QoS(1+i%2), i%3 == 0)
		}
	})
	refused, opened := 0, 0
	for seed := range uint64(400) {
		disk := whole.Clone()
		what := damage(t, disk, rand.New(rand.NewPCG(seed, 0)))
		before := contents(t, disk)
		s, err := journal.OpenStore(disk, "j", journal.StoreOptions{Log: journal.Options{SegmentSize: 64 << 10}})
		var b *broker.Broker
		if err == nil {
			b, err = broker.New(broker.Config{Store: s, SysInterval: -1})
		}
		if err != nil {
			refused++
			if strings.Contains(err.Error(), "\n") || s == nil && !bytes.Equal(before, contents(t, disk)) {
				t.Errorf("seed %d, %s: %q, or something was changed", seed, what, err)
			}
		} else {
			opened++
			if st := b.Stats(); st.Retained > 20 || st.QueuedMessages > 201 || st.Sessions > 3 {
				t.Errorf("seed %d, %s: %d retained, %d queued, %d sessions", seed, what, st.Retained, st.QueuedMessages, st.Sessions)
			}
			if err := b.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if s != nil {
			_ = s.Close()
		}
	}
	t.Logf("%d refused, %d opened", refused, opened)
	if refused < 50 || opened < 20 {
		t.Errorf("%d refused, %d opened: that is no test", refused, opened)
	}
}

// damage does one thing to one file of the store.
func damage(t *testing.T, disk *vfs.Mem, rnd *rand.Rand) string {
	t.Helper()
	all, err := disk.ReadDir("j")
	if err != nil {
		t.Fatal(err)
	}
	info := all[rnd.IntN(len(all))]
	file, err := disk.OpenFile("j/"+info.Name, os.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	at := rnd.Int64N(min(max(info.Size, 1), 24<<10)) // where most is
	switch rnd.IntN(4) {
	case 0:
		err = file.Truncate(at)
		return fmt.Sprintf("%s cut at %d: %v", info.Name, at, err)
	case 1:
		_, err = file.WriteAt(make([]byte, 1+rnd.IntN(8192)), at)
		return fmt.Sprintf("%s NUL at %d: %v", info.Name, at, err)
	case 2:
		_, err = file.WriteAt([]byte{byte(rnd.Uint32())}, at)
		return fmt.Sprintf("%s another byte at %d: %v", info.Name, at, err)
	}
	file.Close()
	return fmt.Sprintf("%s removed: %v", info.Name, disk.Remove("j/"+info.Name))
}

// contents is all that is in the folder, but for the lock.
func contents(t *testing.T, disk *vfs.Mem) (b []byte) {
	t.Helper()
	all, err := disk.ReadDir("j")
	if err != nil {
		t.Fatal(err)
	}
	for _, info := range all {
		if info.Name == "LOCK" {
			continue
		}
		file, err := disk.OpenFile("j/"+info.Name, os.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, info.Size)
		if err := vfs.ReadFull(file, data, 0); err != nil {
			t.Fatal(err)
		}
		b = append(append(b, info.Name...), data...)
		file.Close()
	}
	return b
}
