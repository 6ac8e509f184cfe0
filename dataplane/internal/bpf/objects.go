// Package bpf is the only door to the kernel's BPF: it loads the programs of bpf/, keeps their
// maps and links pinned in one directory, and offers the maps as typed tables. It decides nothing.
package bpf

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"ingot/runtime/fault"
)

// The structs of bpf/types.h.
type (
	Addr       = PortAddr
	Bitvector  = PortBitvector
	Counters   = PortPortCounters
	Flow       = PortFlow
	FlowKey    = PortFlowKey
	HostKey    = PortHostKey
	Multipath  = PortMultipath
	Port       = PortPort
	PrefixKey  = PortPrefixKey
	Route      = PortRoute
	Serials    = PortSerialNumbers
	ServiceKey = PortServiceKey
	VectorKey  = PortVectorKey
	Conf       = PortConfig
)

// Flow states and flags of bpf/types.h.
const (
	FlowNew = iota
	FlowEstablished
	FlowClosing
	FlowClosed

	FlowFromRemote = 1
	FlowRouted     = 2

	MaxNexthops  = 16
	NexthopSlots = 64
)

// Sizes are the configurable sizes of the maps, in entries.
type Sizes struct {
	Ports, Flows, Routes int
}

// Objects are the loaded programs and the pinned maps.
type Objects struct {
	Ports        Table[uint32, Port]
	Underlays    Table[Addr, uint32]
	Counters     PerCPU[Counters]
	FlowsCreated Table[uint32, uint64]
	FlowsRemoved Table[uint32, uint64]
	Flows        Table[FlowKey, Flow]
	Hosts        Table[HostKey, Route]
	Prefixes     Table[PrefixKey, Route]
	Multipaths   Table[uint32, Multipath]
	Peers        Table[PrefixKey, Bitvector]
	Services     Table[ServiceKey, Bitvector]
	Vectors      Table[VectorKey, uint64]
	Serials      Table[uint32, Serials]

	// Private is set when the bpffs was mounted where only this process and its children see it.
	Private bool

	dir        string
	maps       map[string]*ebpf.Map
	pins       map[string]bool // names of the pins of maps
	fromPort   *ebpf.Program
	fromFabric *ebpf.Program
	fromWire   *ebpf.Program
}

// Open mounts a bpffs at dir unless there is one, adopts or creates the maps, and loads the
// programs with conf. Nothing is attached yet; what an earlier process attached goes on.
func Open(dir string, conf Conf, sizes Sizes) (*Objects, error) {
	mounted, err := mount(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "links"), 0o700); err != nil {
		return nil, fmt.Errorf("make directory of links: %w", err)
	}
	o := &Objects{dir: dir, maps: map[string]*ebpf.Map{}, pins: map[string]bool{}, Private: mounted && ownMounts()}
	if err := o.load(conf, sizes); err != nil {
		o.Close()
		return nil, explain(err)
	}
	o.Ports = newTable[uint32, Port](o.maps["ports"])
	o.Underlays = newTable[Addr, uint32](o.maps["underlays"])
	o.Counters = PerCPU[Counters]{o.maps["counters"]}
	o.FlowsCreated = newTable[uint32, uint64](o.maps["flows_created"])
	o.FlowsRemoved = newTable[uint32, uint64](o.maps["flows_removed"])
	o.Flows = newTable[FlowKey, Flow](o.maps["flows"])
	o.Hosts = newTable[HostKey, Route](o.maps["hosts"])
	o.Prefixes = newTable[PrefixKey, Route](o.maps["prefixes"])
	o.Multipaths = newTable[uint32, Multipath](o.maps["multipaths"])
	o.Peers = newTable[PrefixKey, Bitvector](o.maps["peers"])
	o.Services = newTable[ServiceKey, Bitvector](o.maps["services"])
	o.Vectors = newTable[VectorKey, uint64](o.maps["vectors"])
	o.Serials = newTable[uint32, Serials](o.maps["serials"])
	return o, nil
}

// Close releases the handles; pins stay.
func (o *Objects) Close() {
	for _, m := range o.maps {
		m.Close()
	}
	for _, p := range []*ebpf.Program{o.fromPort, o.fromFabric, o.fromWire} {
		if p != nil {
			p.Close()
		}
	}
}

func (o *Objects) load(conf Conf, sizes Sizes) error {
	for _, object := range []struct {
		spec    func() (*ebpf.CollectionSpec, error)
		program string
		to      **ebpf.Program
	}{
		{LoadPort, "from_machine", &o.fromPort},
		{LoadUplink, "from_fabric", &o.fromFabric},
		{LoadUplinkXDP, "from_wire", &o.fromWire},
	} {
		spec, err := object.spec()
		if err != nil {
			return fmt.Errorf("read object of %s: %w", object.program, err)
		}
		resize(spec, sizes)
		if err := spec.Variables["conf"].Set(conf); err != nil {
			return fmt.Errorf("configure %s: %w", object.program, err)
		}
		replacements := map[string]*ebpf.Map{}
		for name, m := range spec.Maps {
			if strings.HasPrefix(name, ".") {
				continue
			}
			if replacements[name], err = o.openMap(name, m); err != nil {
				return err
			}
		}
		c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replacements})
		if err != nil {
			return fmt.Errorf("load %s: %w", object.program, err)
		}
		*object.to = c.DetachProgram(object.program)
		c.Close()
	}
	return nil
}

func resize(spec *ebpf.CollectionSpec, sizes Sizes) {
	for name, n := range map[string]int{
		"ports": sizes.Ports, "underlays": sizes.Ports, "counters": sizes.Ports + 1,
		"flows_created": sizes.Ports + 1, "flows_removed": sizes.Ports + 1,
		"flows": sizes.Flows, "hosts": sizes.Routes, "prefixes": sizes.Routes,
	} {
		spec.Maps[name].MaxEntries = uint32(n)
	}
}

// openMap adopts the pin of the same name and schema, or creates it. A map of another schema
// has another name, so a pin that does not fit is somebody else's doing.
func (o *Objects) openMap(name string, spec *ebpf.MapSpec) (*ebpf.Map, error) {
	if m := o.maps[name]; m != nil {
		return m, nil
	}
	pin := name + "-" + schema(spec)
	path := filepath.Join(o.dir, pin)
	m, err := ebpf.LoadPinnedMap(path, nil)
	switch {
	case err == nil:
		if err := spec.Compatible(m); err != nil {
			m.Close()
			return nil, fmt.Errorf("adopt map %s: %w: not made by this program, move it away: %w",
				path, fault.Conflict, err)
		}
	case errors.Is(err, os.ErrNotExist):
		if m, err = ebpf.NewMap(spec); err != nil {
			return nil, fmt.Errorf("create map %s: %w", name, err)
		}
		if err := m.Pin(path); err != nil {
			m.Close()
			return nil, fmt.Errorf("pin map %s: %w", path, err)
		}
	default:
		return nil, fmt.Errorf("open pinned map %s: %w", path, err)
	}
	o.maps[name], o.pins[pin] = m, true
	return m, nil
}

// schemaLength is that of a schema in bytes.
const schemaLength = 8

// schema is short and changes with anything that makes a map another one.
func schema(spec *ebpf.MapSpec) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s %d %d %d %d ", spec.Type, spec.KeySize, spec.ValueSize, spec.MaxEntries, spec.Flags)
	describe(h, spec.Key)
	describe(h, spec.Value)
	return fmt.Sprintf("%08x", h.Sum32())
}

// describe writes what a type looks like in memory, and the names of its members.
func describe(w io.Writer, t btf.Type) {
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		fmt.Fprintf(w, "{%d:", t.Size)
		for _, m := range t.Members {
			fmt.Fprintf(w, "%s@%d ", m.Name, m.Offset)
			describe(w, m.Type)
		}
		fmt.Fprint(w, "}")
	case *btf.Array:
		fmt.Fprintf(w, "[%d]", t.Nelems)
		describe(w, t.Type)
	case *btf.Int:
		fmt.Fprintf(w, "%d;", t.Size)
	default:
		fmt.Fprintf(w, "%T;", t)
	}
}

// mount makes dir a bpffs, and tells whether it was none.
func mount(dir string) (bool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, fmt.Errorf("make directory for pins: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return false, fmt.Errorf("look at %s: %w", dir, err)
	}
	if fs.Type == unix.BPF_FS_MAGIC {
		return false, nil
	}
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return false, fmt.Errorf("mount bpffs at %s (needs CAP_SYS_ADMIN; or mount it beforehand): %w", dir, err)
	}
	return true, nil
}

// ownMounts tells whether the calling thread has a mount namespace that process 1 does not share,
// as `ip netns exec` gives.
func ownMounts() bool {
	own, err1 := os.Readlink("/proc/thread-self/ns/mnt")
	first, err2 := os.Readlink("/proc/1/ns/mnt")
	return err1 == nil && err2 == nil && own != first
}

// UnpinOthers removes the maps that other versions of the programs, or other sizes, pinned. Nothing of them is
// carried over: ports are written anew from their records, routes come back from the routing daemon.
func (o *Objects) UnpinOthers() error {
	entries, err := os.ReadDir(o.dir)
	if err != nil {
		return fmt.Errorf("list pins: %w", err)
	}
	for _, e := range entries {
		name, hash, ok := strings.Cut(e.Name(), "-")
		if !ok || len(hash) != schemaLength || o.maps[name] == nil || o.pins[e.Name()] {
			continue // current, or not a map of ours: the kernel puts files here too
		}
		if err := os.Remove(filepath.Join(o.dir, e.Name())); err != nil {
			return fmt.Errorf("unpin map: %w", err)
		}
	}
	return nil
}

// explain adds what a person can do about an error of the kernel.
func explain(err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &verifier):
		return fmt.Errorf("%w: this kernel refuses the packet programs; they are made for 6.6 and later: %+v",
			fault.Unsupported, verifier)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("%w: needs kernel 6.6 or later with BTF (CONFIG_DEBUG_INFO_BTF) and tcx: %w",
			fault.Unsupported, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: %w", fault.Denied, err)
	case errors.Is(err, unix.E2BIG), errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%w: a map is full; raise its size in the configuration: %w", fault.Exhausted, err)
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("%w: the kernel has no memory for it: %w", fault.Exhausted, err)
	}
	return err
}
