package store_test

import (
	"testing"

	"github.com/magpiemq/magpie/store"
	"github.com/magpiemq/magpie/store/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return &store.Memory{} })
}
