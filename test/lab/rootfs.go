package lab

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// rootfsRecipe describes the root file system besides its programs.
var rootfsRecipe = struct {
	Size        string
	Directories []string
	Files       map[string]string
	Applets     []string
}{
	Size: "24M",
	Directories: []string{
		"bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var",
	},
	Files: map[string]string{
		"etc/passwd":  "root:x:0:0:root:/root:/bin/sh\n",
		"etc/group":   "root:x:0:\n",
		"etc/hosts":   "127.0.0.1 localhost\n::1 localhost\n",
		"etc/profile": "PS1='\\h:\\w# '\n",
	},
	Applets: []string{
		"sh", "cat", "cp", "date", "df", "dmesg", "echo", "env", "false", "free", "grep", "head",
		"hostname", "ip", "kill", "ls", "mkdir", "mount", "nc", "netstat", "ping", "ps", "rm",
		"sed", "sleep", "stat", "sync", "tail", "test", "top", "touch", "true", "uname", "uptime",
		"vi", "wc", "wget",
	},
}

// rootfsID fixes what mke2fs would draw at random.
const rootfsID = "1960a9a0-6f2b-4d58-9a3c-6b1f0e6d7a51"

// buildRootfs makes an ext4 image and returns it.
func buildRootfs(work, helper string) ([]byte, error) {
	tree, image := filepath.Join(work, "tree"), filepath.Join(work, "rootfs.img")
	if err := layOutRootfs(tree, helper); err != nil {
		return nil, err
	}
	make := exec.Command("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "root",
		"-O", "^metadata_csum,^resize_inode", "-U", rootfsID, "-E", "hash_seed="+rootfsID+",root_owner=0:0,lazy_itable_init=0",
		"-d", tree, image, rootfsRecipe.Size)
	if err := runReproducibly(make, ""); err != nil {
		return nil, err
	}
	script, err := zeroTimes(tree)
	if err != nil {
		return nil, err
	}
	if err := runReproducibly(exec.Command("debugfs", "-w", "-f", "-", image), script); err != nil {
		return nil, err
	}
	return os.ReadFile(image)
}

// layOutRootfs makes the tree that becomes the file system.
func layOutRootfs(tree, helper string) error {
	for _, dir := range rootfsRecipe.Directories {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
	}
	for name, text := range rootfsRecipe.Files {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for from, to := range map[string]string{helper: guestPath, busyboxPath: busyboxPath} {
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(tree, to), data, 0o755); err != nil {
			return err
		}
	}
	for _, applet := range rootfsRecipe.Applets {
		if err := os.Symlink("busybox", filepath.Join(tree, "bin", applet)); err != nil {
			return err
		}
	}
	for link, target := range map[string]string{"sbin/init": "guest", "bin/traffic": "../sbin/guest"} {
		if err := os.Symlink(target, filepath.Join(tree, link)); err != nil {
			return err
		}
	}
	return nil
}

// zeroTimes is a debugfs script that sets the times of every file to zero: mke2fs takes those of
// the tree, of which the time of the last change cannot be set.
func zeroTimes(tree string) (string, error) {
	var script strings.Builder
	err := filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inside := "/" + strings.TrimPrefix(strings.TrimPrefix(path, tree), "/")
		zeroInode(&script, inside)
		return nil
	})
	zeroInode(&script, "/lost+found")
	return script.String(), err
}

func zeroInode(script *strings.Builder, path string) {
	for _, field := range []string{"atime", "ctime", "mtime", "crtime", "atime_extra", "ctime_extra", "mtime_extra", "crtime_extra"} {
		fmt.Fprintf(script, "set_inode_field %s %s 0\n", path, field)
	}
}

// runReproducibly runs a tool of e2fsprogs with a clock that stands still.
func runReproducibly(cmd *exec.Cmd, stdin string) error {
	cmd.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME=1")
	cmd.Stdin = strings.NewReader(stdin)
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, said)
	}
	return nil
}
