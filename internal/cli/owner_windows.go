package cli

// refuseForeignFolder refuses nothing: on Windows what is made in a folder is
// open to whom the folder is.
func refuseForeignFolder(string) error { return nil }
