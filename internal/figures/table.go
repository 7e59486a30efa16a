package main

import (
	"fmt"
	"io"
	"slices"
)

// column is one of the figures of a result.
type column[R any] struct {
	name   string
	format string
	of     func(R) float64
}

// heading writes the first line of a table.
func heading[R any](w io.Writer, name string, columns []column[R]) {
	fmt.Fprint(w, name)
	for _, c := range columns {
		fmt.Fprint(w, "\t", c.name)
	}
	fmt.Fprintln(w)
}

// line writes the medians of the rounds, and how far they were apart.
func line[R any](w io.Writer, name string, rounds []R, columns []column[R]) {
	fmt.Fprint(w, name)
	for _, c := range columns {
		all := make([]float64, len(rounds))
		for i, r := range rounds {
			all[i] = c.of(r)
		}
		slices.Sort(all)
		fmt.Fprintf(w, "\t"+c.format+" ("+c.format+"–"+c.format+")", median(all), all[0], all[len(all)-1])
	}
	fmt.Fprintln(w)
}

// median returns the middle of numbers in order, or the mean of the two in the middle.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
