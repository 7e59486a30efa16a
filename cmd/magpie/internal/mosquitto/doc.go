// Package mosquitto reads the files of the broker Mosquitto: what it has saved (mosquitto.db), its configuration, its password
// files and access control lists. It says what they mean in our terms, and what of them has no counterpart and why. It
// writes nothing but through the functions it is given.
//
// The files may come from anywhere: a file that makes no sense is an error with the place where it stops making sense.
package mosquitto
