// Command table writes docs/conformance.md. Run it from the root of the
// repository: go run ./conformance/cmd/table.
package main

import (
	"fmt"
	"os"

	"github.com/magpiemq/magpie/conformance"
)

func main() {
	if err := write("."); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

func write(root string) error {
	survey, err := conformance.NewSurvey(root)
	if err != nil {
		return err
	}
	for _, problem := range survey.Problems() {
		fmt.Fprintln(os.Stderr, "table:", problem)
	}
	if err := os.MkdirAll(root+"/docs", 0o755); err != nil {
		return err
	}
	return os.WriteFile(root+"/docs/conformance.md", survey.Markdown(), 0o644)
}
