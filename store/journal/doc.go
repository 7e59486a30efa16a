// Package journal is the log on disk: records in one order, of which the package knows a kind and bytes, and when they are
// safe. What the bytes mean is the business of whoever appends them. docs/journal-format.md describes the files.
//
// # How a record becomes safe
//
// [Log.Append] gives the record its [Position] and copies it into a buffer. One goroutine, the committer, takes all that is
// in the buffer, writes it at once, syncs once, and tells what is committed. While it does, the next batch grows: batches
// form by themselves, and an idle log acknowledges after one write and one sync. Of some records less is promised: a batch in
// which there are no others is written, which survives the end of the process, and synced within a while or with the next.
//
// The log is a sequence of segments, which are files of one size. Another goroutine, the preparer, sees to it that the next
// segments exist before they are needed: allocated, named, and their folder synced. A record is taken only when there
// is space for it on the disk, so a full disk is an error of Append and not of the committer. Segments that hold nothing of
// value are given back by [Log.Free] and used again under another number; each time a segment is prepared, it gets
// a random epoch that goes into the checksum of each record, so that what a file held before is never taken for what it holds
// now.
//
// A write or a sync that went wrong ends the log: nobody knows what is on the disk. Append returns the error from then on,
// what was not committed never will be, and opening the log again finds out what is there.
//
// # What a crash leaves
//
// The end of the log is where a record is not whole. What was written behind it and never synced may be there in any order,
// in part, or not at all, and means nothing. Damage to something that was synced must not look like that. So each batch
// begins with a mark that names the place up to which the log was synced when the batch was written: a bad record before
// such a place is a [*DamageError], one behind all such places is the end. A segment is synced before anything is written to
// the next one, so only the last one can have a torn end.
//
// # What the space is used for
//
// [Store] knows which records are messages, and counts how many uses of the messages in each segment there are: a session that
// waits, a retained message. A segment is needed from the last checkpoint on, because a replay reads it, and while something in it is
// in use. So there are three ways in which space comes back: a segment in which nothing is in use is freed; a checkpoint is taken, when
// the log has grown, when the disk is full, or when nothing happens any more, and sets the anchor forward; and a segment before the anchor in
// which little is in use is cleaned, by which the owner lets copies be made at the end of the log, as slowly as the options
// say, and uses those. One goroutine of the store does all three, so they never meet.
//
// Before the disk is full, a store refuses messages and nothing else, because everything else makes room in the end. When there is no
// space at all, the last segment that stands ready is for such records, and for a checkpoint and copies that free more than they take.
//
// # Goroutines and locks
//
// Methods of [Log] may be called by many goroutines at once. Log.mu is held for the time of a copy and never during I/O, except
// that of segment.mu. Order: segment.mu, then Log.mu; never two segments at once.
package journal
