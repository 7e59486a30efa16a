// Package auth decides who may connect to a broker and what they may do there: password file, access control list,
// JSON Web Tokens, HTTP call-out, client certificates, SCRAM, chains of these, and a throttle for guessers.
//
// It knows credentials, files of them, and topics. It refuses to know connections, sessions and packets: it sees only
// the broker's extension points, as any outsider could.
//
// # Rules that hold everywhere
//
//   - Closed by default: a file that is empty, broken or missing when it is first read denies everybody. Open functions
//     then return a value that works (and denies) together with one error that names the file, the line and the remedy.
//     When a file that was good is broken by an edit, the last good content stays in force and the error is reported:
//     an operator's slip must not throw out a fleet, and [Watcher] tries again at the next change.
//   - Deny wins: see [Chain] and [Authorizers].
//   - One answer to guessers: wrong password and unknown user cost the same work and give the same reason code,
//     BadUserNameOrPassword. The text of an error is for the log, never for the client.
//   - A name that comes from a client (Client Identifier or user) never becomes part of a Topic Filter's structure:
//     see [ACL].
//
// # Password file
//
// One user per line, `user:hash`, optionally `user:hash:scram`, or `user:scram`; empty lines and lines that begin with
// `#` are skipped. A hash is one of
//
//	$argon2id$v=19$m=19456,t=2,p=1$salt$hash        written by [Hash]
//	$7$iterations$salt$hash                         Mosquitto: PBKDF2-HMAC-SHA-512
//	$6$salt$hash                                    Mosquitto before 2.0: one round of SHA-512; accepted, but weak
//	$2a$…, $2b$…, $2y$…                             bcrypt
//	SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey
//
// with salt, hash and keys in base64. The last kind serves SCRAM, and plain passwords where it stands alone. SCRAM keys
// beside an argon2id hash make SCRAM possible without storing the password, at a price: who steals the file may attack
// the cheaper of the two.
//
// # ACL file
//
// The format is Mosquitto's, with the differences that [ParseACL] lists:
//
//	# what clients without a user may do
//	topic read news/#
//	user alice
//	topic readwrite home/alice/#
//	topic deny home/alice/safe
//	# what everybody may do
//	pattern write devices/%u/telemetry
package auth
