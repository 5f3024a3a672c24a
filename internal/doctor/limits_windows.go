package doctor

// openFiles: Windows has no such limit that would be met.
func openFiles() (limit uint64, known bool) { return 0, false }

// inotify: Windows has none.
func inotify(string) (limit int, known bool) { return 0, false }
