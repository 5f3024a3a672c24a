package config

import "strings"

// grantsEveryone reports whether a Windows security descriptor, as text in the
// Security Descriptor Definition Language, grants anything to everyone, to all
// users, or to guests, or has no access control list at all, which grants
// everything. It is text on every system so that it can be tested on every one.
func grantsEveryone(descriptor string) bool {
	_, list, found := strings.Cut(descriptor, "D:")
	if !found || strings.Contains(list, "NO_ACCESS_CONTROL") {
		return true
	}
	for _, entry := range strings.Split(list, "(")[1:] {
		entry, _, _ = strings.Cut(entry, ")")
		fields := strings.Split(entry, ";")
		// type;flags;rights;object;inherited object;account. Every kind of entry
		// but a denial (D, OD, XD) may grant.
		if len(fields) < 6 || strings.HasSuffix(fields[0], "D") {
			continue
		}
		switch fields[5] {
		case "WD", "S-1-1-0", // Everyone
			"AU", "S-1-5-11", // Authenticated Users
			"BU", "S-1-5-32-545", // Users
			"IU", "S-1-5-4", // Interactive
			"NU", "S-1-5-2", // Network
			"AN", "S-1-5-7", // Anonymous
			"BG", "S-1-5-32-546": // Guests
			return true
		}
	}
	return false
}
