package lab

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// kernelMetapackage depends on the package of Debian's newest kernel for virtual machines.
const kernelMetapackage = "linux-image-cloud-amd64"

// kernelPackage returns the file of the kernel's package, downloaded if it is not cached.
func kernelPackage() (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	if cached, err := cachedKernel(cache); err == nil {
		return cached, nil
	}
	// Another process may download too: each does it for itself, and the last rename wins.
	work, err := os.MkdirTemp(cache, "download-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	if err := downloadKernel(work); err != nil {
		// The package lists may be missing, or name a version that is gone.
		if said, err := exec.Command("apt-get", "-q", "-o", "DPkg::Lock::Timeout=600", "update").CombinedOutput(); err != nil {
			return "", fmt.Errorf("update package lists: %w: %s", err, said)
		}
		if err := downloadKernel(work); err != nil {
			return "", err
		}
	}
	fresh, err := cachedKernel(work)
	if err != nil {
		return "", err
	}
	final := filepath.Join(cache, filepath.Base(fresh))
	return final, os.Rename(fresh, final)
}

// downloadKernel puts the kernel's package into dir.
func downloadKernel(dir string) error {
	name, err := kernelName()
	if err != nil {
		return err
	}
	download := exec.Command("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name)
	download.Dir = dir
	if said, err := download.CombinedOutput(); err != nil {
		return fmt.Errorf("download %s: %w: %s", name, err, said)
	}
	return nil
}

// cachedKernel returns the last kernel package in dir.
func cachedKernel(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "linux-image-*-cloud-amd64_*.deb"))
	if err != nil {
		return "", err
	}
	if len(files) == 0 {
		return "", fmt.Errorf("find kernel package in %s: %w", dir, fs.ErrNotExist)
	}
	return slices.Max(files), nil
}

// kernelName asks apt which package the metapackage stands for.
func kernelName() (string, error) {
	out, err := exec.Command("apt-cache", "depends", kernelMetapackage).Output()
	if err != nil {
		return "", fmt.Errorf("look up %s: %w", kernelMetapackage, err)
	}
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: linux-image-"); ok {
			return "linux-image-" + name, nil
		}
	}
	return "", fmt.Errorf("look up %s: no such package in the package lists", kernelMetapackage)
}

// kernelFiles is what a guest needs of a kernel package.
type kernelFiles struct {
	image []byte
	// modules by file name; order lists them so that each comes after what it depends on.
	modules map[string][]byte
	order   []string
}

// unpackKernel takes the kernel and the wanted modules with their dependencies out of a package.
func unpackKernel(deb string, want []string) (*kernelFiles, error) {
	unpack := exec.Command("dpkg-deb", "--fsys-tarfile", deb)
	stdout, err := unpack.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := unpack.Start(); err != nil {
		return nil, err
	}
	image, all, err := readKernelTar(stdout)
	if err != nil {
		unpack.Process.Kill()
		return nil, errors.Join(err, unpack.Wait())
	}
	if err := unpack.Wait(); err != nil {
		return nil, err
	}
	if image == nil {
		return nil, fmt.Errorf("find boot/vmlinuz: %w", fs.ErrNotExist)
	}
	k := &kernelFiles{image: image, modules: map[string][]byte{}}
	for _, name := range want {
		if err := k.add(name, all); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// readKernelTar returns the kernel and all modules by name.
func readKernelTar(r io.Reader) (image []byte, modules map[string][]byte, err error) {
	modules = map[string][]byte{}
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if err == io.EOF {
			// dpkg-deb still has the archive's padding to write.
			_, err = io.Copy(io.Discard, r)
			return image, modules, err
		}
		if err != nil {
			return nil, nil, err
		}
		base := path.Base(header.Name)
		isImage, module := strings.HasPrefix(base, "vmlinuz-"), strings.HasSuffix(base, ".ko")
		if header.Typeflag != tar.TypeReg || !isImage && !module {
			continue
		}
		data, err := io.ReadAll(archive)
		if err != nil {
			return nil, nil, err
		}
		if isImage {
			image = data
		} else {
			modules[moduleName(base)] = data
		}
	}
}

// moduleName is a module's name as the kernel spells it.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(file, ".ko"), "-", "_")
}

// add appends a module after everything it depends on. A name without a file is built in.
func (k *kernelFiles) add(name string, all map[string][]byte) error {
	name = moduleName(name)
	data, ok := all[name]
	if _, done := k.modules[name+".ko"]; done || !ok {
		return nil
	}
	depends, err := moduleDepends(data)
	if err != nil {
		return fmt.Errorf("read module %s: %w", name, err)
	}
	for _, dependency := range depends {
		if err := k.add(dependency, all); err != nil {
			return err
		}
	}
	k.modules[name+".ko"] = data
	k.order = append(k.order, name+".ko")
	return nil
}

// moduleDepends reads the field "depends" of a module's .modinfo section.
func moduleDepends(data []byte) ([]string, error) {
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for field := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := bytes.CutPrefix(field, []byte("depends=")); ok && len(list) > 0 {
			return strings.Split(string(list), ","), nil
		}
	}
	return nil, nil
}
