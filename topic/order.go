package topic

import "cmp"

// compare orders names level by level: as bytes, but with the slash before every other byte. So a name comes right
// before those below it, and a subtree is one run, which plain byte order does not give: there "a-b" parts "a" from
// "a/b".
func compare[A, B ~string | ~[]byte](a A, b B) int {
	i := commonPrefix(a, b)
	switch {
	case i == len(a) || i == len(b):
		return cmp.Compare(len(a), len(b))
	case a[i] == '/':
		return -1
	case b[i] == '/':
		return 1
	}
	return cmp.Compare(a[i], b[i])
}

// commonPrefix returns how many bytes a and b have in common at the start.
func commonPrefix[A, B ~string | ~[]byte](a A, b B) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
