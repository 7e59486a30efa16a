package journal

import "time"

// How often the disk is looked at, and how much less of it has to be in use before messages are taken again.
const (
	lookEvery  = time.Second
	hysteresis = 0.01
)

// watch looks at the disk, and wakes the cleaner, until the store is closed.
func (s *Store) watch() {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		case <-s.look:
		}
		s.checkDisk()
		signal(s.wake)
	}
}

// checkDisk finds out how full the disk is, and whether messages are taken.
func (s *Store) checkDisk() {
	free, total, err := s.log.fs.Space(s.log.dir)
	if err != nil || total <= 0 {
		return // what the file system says when it has no space has to do
	}
	used, limit, was := 1-float64(free)/float64(total), s.opts.FullAt, s.full.Load() != nil
	if was {
		limit -= hysteresis
	}
	full := used >= limit && s.opts.FullAt < 1
	if full {
		s.full.Store(&FullError{Dir: s.log.dir, Used: used, Limit: s.opts.FullAt})
	} else {
		s.full.Store(nil)
	}
	if full == was {
		return
	}
	s.log.keepLean(full)
	if full {
		s.forgetLooks()
	}
	if s.opts.OnFull != nil {
		s.opts.OnFull(full, used)
	}
}
