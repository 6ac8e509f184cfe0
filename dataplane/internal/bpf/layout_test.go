package bpf

import (
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

func TestStructsMatchTheProgramsTypes(t *testing.T) {
	spec, err := LoadPort()
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		checkMap[uint32, Port](spec.Maps["ports"]), checkMap[Addr, uint32](spec.Maps["underlays"]),
		checkMap[uint32, Counters](spec.Maps["counters"]), checkMap[FlowKey, Flow](spec.Maps["flows"]),
		checkMap[HostKey, Route](spec.Maps["hosts"]), checkMap[PrefixKey, Route](spec.Maps["prefixes"]),
		checkMap[uint32, Multipath](spec.Maps["multipaths"]), checkMap[PrefixKey, Bitvector](spec.Maps["peers"]),
		checkMap[ServiceKey, Bitvector](spec.Maps["services"]), checkMap[VectorKey, uint64](spec.Maps["vectors"]),
		checkMap[PortFragmentKey, PortFragment](spec.Maps["fragments"]), checkMap[uint32, Serials](spec.Maps["serials"]),
	)
	if err != nil {
		t.Error(err)
	}
}

func checkMap[K, V any](m *ebpf.MapSpec) error {
	return errors.Join(
		checkType(m.Name+" key", reflect.TypeFor[K](), m.Key), checkType(m.Name+" value", reflect.TypeFor[V](), m.Value))
}

func checkType(name string, have reflect.Type, want btf.Type) error {
	size, err := btf.Sizeof(want)
	if err != nil {
		return fmt.Errorf("size of %s: %w", name, err)
	}
	if int(have.Size()) != size {
		return fmt.Errorf("%s: %s has %d bytes, want %d", name, have, have.Size(), size)
	}
	s, ok := btf.UnderlyingType(want).(*btf.Struct)
	if !ok {
		return nil
	}
	var offsets []uintptr
	for i := range have.NumField() {
		if f := have.Field(i); f.Name != "_" {
			offsets = append(offsets, f.Offset)
		}
	}
	if len(offsets) != len(s.Members) {
		return fmt.Errorf("%s: %s has %d fields, want %d", name, have, len(offsets), len(s.Members))
	}
	for i, m := range s.Members {
		if uintptr(m.Offset.Bytes()) != offsets[i] {
			return fmt.Errorf("%s: %s is at %d, want %d", name, m.Name, offsets[i], m.Offset.Bytes())
		}
	}
	return nil
}
