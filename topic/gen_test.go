package topic

import (
	"math/rand/v2"
	"strings"
)

// gen makes small random topics, from few enough levels that names and filters often meet.
type gen struct {
	*rand.Rand
	levels []string // the literal levels to choose from
	depth  int      // most levels of a name
}

// newGen draws from levels that sort around the slash, are empty, begin with $, or begin alike.
func newGen(seed uint64) gen {
	return gen{
		Rand:   rand.New(rand.NewPCG(seed, 1)),
		levels: []string{"a", "b", "", "a-b", "ab", "$a", "$", "%", "!", "温度", "\x01", "a b"}[:2+seed%11],
		depth:  1 + int(seed%5),
	}
}

// newWideGen draws from so many levels that every structure changes to its large form.
func newWideGen(seed uint64) gen {
	g := gen{Rand: rand.New(rand.NewPCG(seed, 2)), depth: 3}
	for range 30 {
		g.levels = append(g.levels, strings.Repeat(string(rune('a'+g.IntN(26))), g.IntN(3)))
	}
	return g
}

func (g gen) name() string {
	for {
		levels := make([]string, 1+g.IntN(g.depth))
		for i := range levels {
			levels[i] = g.levels[g.IntN(len(g.levels))]
		}
		if name := strings.Join(levels, "/"); name != "" {
			return name
		}
	}
}

// filter puts wildcards into a name.
func (g gen) filter() string {
	levels := strings.Split(g.name(), "/")
	for i := range levels {
		if g.IntN(3) == 0 {
			levels[i] = "+"
		}
	}
	switch g.IntN(4) {
	case 0:
		levels[len(levels)-1] = "#"
	case 1:
		levels = append(levels, "#")
	}
	return strings.Join(levels, "/")
}
