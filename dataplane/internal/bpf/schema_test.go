package bpf

import (
	"testing"

	"github.com/cilium/ebpf"
)

func TestSchemaIsTheSameAtEveryStartAndChangesWithAType(t *testing.T) {
	names := map[string]string{}
	for range 3 {
		for _, load := range []func() (*ebpf.CollectionSpec, error){LoadPort, LoadUplink, LoadUplinkXDP} {
			spec, err := load()
			if err != nil {
				t.Fatal(err)
			}
			for name, m := range spec.Maps {
				if name[0] == '.' {
					continue
				}
				if s := schema(m); names[name] == "" {
					names[name] = s
				} else if names[name] != s {
					t.Errorf("%s: schema %s, then %s", name, names[name], s)
				}
			}
		}
	}
	spec, err := LoadPort()
	if err != nil {
		t.Fatal(err)
	}
	other := spec.Maps["hosts"].Copy()
	other.Value = spec.Maps["flows"].Value
	if schema(other) == names["hosts"] {
		t.Error("a map of another value type has the same schema")
	}
}
