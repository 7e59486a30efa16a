package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/magpiemq/magpie/auth"
)

// passwdCmd changes a password file. A running broker notices by itself.
type passwdCmd struct {
	File     string `arg:"" help:"Password file; made if need be, readable by you alone."`
	User     string `arg:"" help:"Name of the user."`
	Password string `arg:"" optional:"" help:"The password, only with -b; - or nothing means the first line of standard input."`
	Batch    bool   `short:"b" help:"Do not prompt. Others on the machine may see arguments: standard input is safer."`
	Delete   bool   `short:"D" help:"Delete the user."`
	Scram    bool   `help:"Write keys for SCRAM-SHA-256 as well (auth.scram)."`
}

// Help is shown by kong below the usage line.
func (*passwdCmd) Help() string {
	return examples(
		"magpie passwd users.txt ann", "set the password of ann, asked for twice; the file is made if need be",
		"pwgen -s 24 1 | tee ann.secret | magpie passwd -b users.txt ann", "take it from standard input",
		"magpie passwd -D users.txt ann", "delete ann",
	)
}

// Run sets or deletes one user.
func (c *passwdCmd) Run() error {
	switch {
	case c.Delete && (c.Batch || c.Password != "" || c.Scram):
		return usagef("-D takes no password")
	case c.Password != "" && !c.Batch:
		return usage(errors.New("a password as argument needs -b"), "leave it out to be asked for it")
	case c.Delete:
		if err := auth.DeleteUser(c.File, c.User); err != nil {
			return err
		}
		fmt.Printf("deleted %q from %s\n", c.User, c.File)
		return nil
	}
	password, err := c.password()
	if err != nil {
		return err
	}
	if err := auth.SetPassword(c.File, c.User, password, auth.PasswordOptions{SCRAM: c.Scram}); err != nil {
		return err
	}
	fmt.Printf("set the password of %q in %s\n", c.User, c.File)
	return nil
}

// password takes the password from the arguments, standard input, or the terminal.
func (c *passwdCmd) password() (string, error) {
	if c.Batch && c.Password != "" && c.Password != "-" {
		return c.Password, nil
	}
	fd := int(os.Stdin.Fd())
	if c.Batch || !term.IsTerminal(fd) {
		return firstLine(os.Stdin)
	}
	return askTwice(func(question string) (string, error) {
		fmt.Fprint(os.Stderr, question)
		b, err := term.ReadPassword(fd)
		fmt.Fprintln(os.Stderr)
		return string(b), err
	})
}

func firstLine(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, 64<<10)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the password: %w", err)
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", usagef("the password on standard input is empty")
	}
	return line, nil
}

// askTwice asks for a new password until one was typed the same twice, three times at most.
func askTwice(ask func(question string) (string, error)) (string, error) {
	for range 3 {
		first, err := ask("Password: ")
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		again, err := ask("Again: ")
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		if first == again && first != "" {
			return first, nil
		}
	}
	return "", errors.New("the passwords were empty or not the same")
}
