package auth

// CheckPasswords says what is wrong with the content of a password file; path is for the message. A file without users is wrong
// too: nobody could connect.
func CheckPasswords(path string, data []byte) error {
	_, err := parsePasswords(path, data)
	return err
}
