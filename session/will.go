package session

import "time"

// Never is the expiry of a session that does not expire (Session Expiry Interval 0xFFFFFFFF, §3.1.2.11.2).
const Never = time.Duration(1<<63 - 1)

// WillDue returns how long after the end of its connection a Will is published: its delay, or the end of the session if
// that comes first (§3.1.3.2.2). expiry is the Session Expiry Interval; [Never] for none.
func WillDue(delay, expiry time.Duration) time.Duration { return min(delay, expiry) }
