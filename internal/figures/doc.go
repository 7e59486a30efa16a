// Command figures measures the real binary from outside and prints tables: what a durable broker costs beside one that keeps
// everything in memory, and beside Debian's mosquitto with persistence, when that is installed.
//
//	go run ./internal/figures durable   QoS 1 from 1, 16 and 256 publishers to one persistent subscriber
//	go run ./internal/figures queue     a million messages for a client that is away, and how fast they drain
//
// All programs run on this machine, over loopback, one broker at a time, each with a new process and an empty folder. The brokers
// take turns within each round, so that whatever else the machine does hits them all alike; what is printed are medians, and the
// spread between the rounds. The generator shares the processors with the broker, and its own costs are printed, so that one sees
// when it was the limit.
package main
