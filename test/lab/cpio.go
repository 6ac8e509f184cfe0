package lab

import (
	"bytes"
	"fmt"
)

// A cpio writes an archive in the "newc" format (Linux, Documentation/driver-api/early-userspace/
// buffer-format.rst) with all times zero and all owners root.
type cpio struct {
	buffer bytes.Buffer
	inode  int
}

func newCpio() *cpio { return &cpio{} }

func (c *cpio) directory(name string) { c.entry(name, 0o040755, 0, 0, nil) }

func (c *cpio) file(name string, mode uint32, data []byte) {
	c.entry(name, 0o100000|mode, 0, 0, data)
}

func (c *cpio) device(name string, major, minor int) { c.entry(name, 0o020600, major, minor, nil) }

func (c *cpio) entry(name string, mode uint32, major, minor int, data []byte) {
	c.inode++
	fmt.Fprintf(&c.buffer, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	c.pad()
	c.buffer.Write(data)
	c.pad()
}

// pad aligns to four bytes, which headers and contents must be.
func (c *cpio) pad() {
	for c.buffer.Len()%4 != 0 {
		c.buffer.WriteByte(0)
	}
}

func (c *cpio) close() []byte {
	c.entry("TRAILER!!!", 0, 0, 0, nil)
	return c.buffer.Bytes()
}
