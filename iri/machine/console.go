package machine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// consoleSweep is how often console logs are looked at. Where virtlogd writes them it bounds them
// itself; where QEMU does, nobody else would.
const consoleSweep = 10 * time.Second

func (s *Server) rotateConsoles() {
	for _, e := range s.snapshot() {
		if err := rotate(s.files(e.id).console(), s.cfg.ConsoleLogBytes); err != nil {
			e.log.Warn("console log not bounded", "error", err)
		}
	}
}

// rotate moves the content of a log that outgrew limit to NAME.1. The file itself stays, emptied:
// the emulator has it open for appending.
func rotate(path string, limit int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open console log: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read console log: %w", err)
	}
	if info.Size() <= limit {
		return nil
	}
	old, err := os.OpenFile(path+".1", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("keep console log: %w", err)
	}
	defer old.Close()
	tail := io.NewSectionReader(f, info.Size()-limit, limit)
	if _, err := io.Copy(old, tail); err != nil {
		return fmt.Errorf("keep console log: %w", err)
	}
	return f.Truncate(0)
}
