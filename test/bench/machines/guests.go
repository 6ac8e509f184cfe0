package machines

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	"golang.org/x/sync/errgroup"

	"ingot/iri/machine"
	"ingot/iri/machine/image"
	"ingot/iri/machine/libvirt"
	"ingot/test/bench/result"
	"ingot/test/lab"
)

// atOnce is how many machines the runtime starts at once, and so does the baseline.
const atOnce = 8

// createStart measures from CreateMachine to started for n machines, against virsh define and start
// of the same definitions, as many at once; the two take turns.
func createStart(name string, n, repeats int) func(context.Context) ([]result.Result, error) {
	return func(ctx context.Context) (_ []result.Result, err error) {
		h, err := newHypervisor(ctx)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, h.close()) }()
		var ours, theirs []float64
		for i := range repeats + 1 {
			mine, template, err := h.create(ctx, n)
			if err != nil {
				return nil, err
			}
			raw, err := h.virsh(ctx, template, n)
			if err != nil {
				return nil, err
			}
			if i > 0 { // the first fills the image cache and libvirt's
				ours, theirs = append(ours, mine.Seconds()), append(theirs, raw.Seconds())
			}
		}
		return []result.Result{
			result.New(name, "s", result.RatioAtMost(1.15), ours...).Against("virsh define + start", theirs...),
		}, nil
	}
}

// hypervisor is a lab host with libvirtd and the runtime.
type hypervisor struct {
	fabric *lab.Fabric
	host   *lab.Host
	*runtime
	image string
}

func newHypervisor(ctx context.Context) (_ *hypervisor, err error) {
	cache, err := lab.CacheDir()
	if err != nil {
		return nil, err
	}
	ref, err := lab.BuildGuestImage(cache)
	if err != nil {
		return nil, err
	}
	fabric, err := lab.NewFabric(lab.FabricConfig{Hosts: 1})
	if err != nil {
		return nil, err
	}
	h := &hypervisor{fabric: fabric, host: fabric.Hosts[0], image: ref}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	if _, err := h.host.StartLibvirt(ctx); err != nil {
		return nil, err
	}
	hv, err := libvirt.New(libvirt.Config{URI: "qemu+unix:///system?socket=" + h.host.Path(lab.LibvirtSocket)})
	if err != nil {
		return nil, err
	}
	dir, err := workDir()
	if err != nil {
		return nil, err
	}
	layout, _, _ := strings.Cut(strings.TrimPrefix(ref, "oci-layout:"), ":")
	images, err := image.Open(image.Config{Dir: filepath.Join(dir, "images"), LayoutDirs: []string{layout}})
	if err != nil {
		return nil, err
	}
	h.runtime, err = start(dir, machine.Deps{Hypervisor: hv, Images: images, Ports: noPorts{}}, hv.Run)
	return h, err
}

func (h *hypervisor) close() error {
	var errs []error
	if h.runtime != nil {
		errs = append(errs, h.stop())
		errs = append(errs, os.RemoveAll(h.dir))
	}
	return errors.Join(append(errs, h.fabric.Close())...)
}

// create times n machines, keeps the definition of one with its files, and deletes them.
func (h *hypervisor) create(ctx context.Context, n int) (time.Duration, template, error) {
	ids := make([]string, n)
	begin := time.Now()
	var g errgroup.Group
	for i := range ids {
		g.Go(func() (err error) {
			ids[i], err = h.runtime.create(ctx, uuid.NewString(), h.image)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, template{}, err
	}
	if err := h.await(ctx, running(n)); err != nil {
		return 0, template{}, err
	}
	took := time.Since(begin)
	t, err := h.keep(ctx, ids[0])
	if err != nil {
		return 0, template{}, err
	}
	for _, id := range ids {
		if _, err := h.client.DeleteMachine(ctx, &api.DeleteMachineRequest{MachineId: id}); err != nil {
			return 0, template{}, err
		}
	}
	return took, t, h.await(ctx, func(left []*api.Machine) bool { return len(left) == 0 })
}

// template is a definition and the directory with its files.
type template struct {
	id, dir string
	xml     []byte
}

// keep copies a machine's definition and files; the originals go with the machine.
func (h *hypervisor) keep(ctx context.Context, id string) (template, error) {
	xml, err := h.host.Virsh(ctx, "dumpxml", "--inactive", id)
	if err != nil {
		return template{}, err
	}
	t := template{id: id, dir: filepath.Join(h.dir, "machines", id), xml: xml}
	_, err = h.host.Exec(ctx, "cp", "-a", "--sparse=always", t.dir, h.copyOf(t, "kept"))
	return t, err
}

// copyOf names a directory beside the machines'.
func (h *hypervisor) copyOf(t template, name string) string {
	return filepath.Join(h.dir, "machines", "raw-"+t.id+"-"+name)
}

// virsh times define and start of n copies, whose files are made beforehand.
func (h *hypervisor) virsh(ctx context.Context, t template, n int) (_ time.Duration, err error) {
	defer func() {
		left, globErr := filepath.Glob(h.copyOf(t, "*"))
		for _, path := range left {
			err = errors.Join(err, os.RemoveAll(path))
		}
		err = errors.Join(err, globErr)
	}()
	ids := make([]string, n)
	for i := range ids {
		ids[i] = uuid.NewString()
		dir := h.copyOf(t, ids[i])
		if _, err := h.host.Exec(ctx, "cp", "-a", "--sparse=always", h.copyOf(t, "kept"), dir); err != nil {
			return 0, err
		}
		xml := bytes.ReplaceAll(t.xml, []byte(t.dir), []byte(dir))
		xml = bytes.ReplaceAll(xml, []byte("<name>"+t.id), []byte("<name>"+ids[i]))
		xml = bytes.ReplaceAll(xml, []byte("<uuid>"+t.id), []byte("<uuid>"+ids[i]))
		if err := os.WriteFile(filepath.Join(dir, "domain.xml"), xml, 0o600); err != nil {
			return 0, err
		}
	}
	begin := time.Now()
	var g errgroup.Group
	for worker := range min(n, atOnce) {
		var commands strings.Builder // of one virsh, whose own start is paid once
		for i := worker; i < n; i += atOnce {
			fmt.Fprintf(&commands, "define %s; start %s;", filepath.Join(h.copyOf(t, ids[i]), "domain.xml"), ids[i])
		}
		g.Go(func() error {
			_, err := h.host.Virsh(ctx, commands.String())
			return err
		})
	}
	err = g.Wait()
	took := time.Since(begin)
	for _, id := range ids {
		_, destroyErr := h.host.Virsh(ctx, "destroy", id)
		_, undefineErr := h.host.Virsh(ctx, "undefine", id)
		err = errors.Join(err, destroyErr, undefineErr)
	}
	return took, err
}
