package admission_test

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"

	"ingot/controlplane/admission"
	"ingot/controlplane/api"
	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/resource"
	"ingot/runtime/store"
	"ingot/runtime/store/mem"
)

// words are what fields are filled with: some right, some wrong.
var words = []string{"", "a", "B c", "shop", "small", "On", "IPv4", "IPv6", "10.0.0.0/8", "10.0.0.1/8", "fd00::/64", "10.0.0.4",
	"1Gi", "-1", "TCP", "ICMP", "In", "Exists", "Ingress", "NoSchedule", "oda", "oci-layout:/x:", "oci-layout:", "r/x:1", "ingot://vni/9", "\xff"}

// fill sets random fields of m.
func fill(r *rand.Rand, m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if r.IntN(3) == 0 {
			continue
		}
		switch {
		case fd.IsMap():
			for range r.IntN(3) {
				m.Mutable(fd).Map().Set(protoreflect.ValueOfString(words[r.IntN(len(words)-1)]).MapKey(), value(r, fd.MapValue()))
			}
		case fd.IsList():
			list := m.Mutable(fd).List()
			for range r.IntN(3) {
				if fd.Message() == nil {
					list.Append(value(r, fd))
				} else if depth > 0 {
					fill(r, list.AppendMutable().Message(), depth-1)
				} else {
					list.AppendMutable()
				}
			}
		case fd.Message() != nil:
			sub := m.Mutable(fd).Message()
			if depth > 0 {
				fill(r, sub, depth-1)
			}
		default:
			m.Set(fd, value(r, fd))
		}
	}
}

func value(r *rand.Rand, fd protoreflect.FieldDescriptor) protoreflect.Value {
	word := words[r.IntN(len(words)-1)] // the last one is no UTF-8
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(word)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(words[r.IntN(len(words))]))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(r.IntN(1 << 17)))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(r.IntN(1 << 17)))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(r.Int64N(1 << 40))
	}
	return fd.Default()
}

func TestRandomObjectsNeverPanicAndAreDefaultedOnce(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	st := mem.New(api.Schema(), mem.Config{})
	defer st.Close()
	if _, err := st.Txn(t.Context(), store.Txn{Ops: []store.Op{
		{Resource: &resource.Resource{Meta: resource.Meta{Key: resource.Key{Kind: api.Project, Name: "shop"}}, Spec: &v1alpha1.ProjectSpec{}}},
		{Resource: &resource.Resource{Meta: resource.Meta{Key: resource.Key{Kind: api.MachineClass, Name: "small"}}, Spec: &v1alpha1.MachineClassSpec{}}},
	}}); err != nil {
		t.Fatal(err)
	}
	a := admission.New(st)
	admitted := 0
	for range 1000 {
		for _, info := range api.Kinds() {
			if info.Group == "" || info.ReadOnly {
				continue
			}
			o := &resource.Resource{Meta: resource.Meta{Key: resource.Key{Kind: info.Kind, Name: "a"}}, Spec: info.New()}
			if !info.Global {
				o.Project = "shop"
			}
			fill(r, o.Spec.ProtoReflect(), 6)
			admission.Claims(nil, o)
			if a.Admit(t.Context(), nil, o) != nil {
				continue
			}
			admitted++
			again := o.Clone()
			if err := a.Admit(t.Context(), o, again); err != nil {
				t.Fatalf("%s %v was admitted, but not as its own update: %v", o.Kind, o.Spec, err)
			}
			if d := cmp.Diff(o.Spec, again.Spec, protocmp.Transform()); d != "" {
				t.Fatalf("%s was defaulted twice (-first +second):\n%s", o.Kind, d)
			}
			other := info.New()
			fill(r, other.ProtoReflect(), 6)
			again.Spec = other
			_ = a.Admit(t.Context(), o, again) // must not panic either
		}
	}
	if admitted < 50 {
		t.Errorf("%d of the objects were admitted: the test tests nothing", admitted)
	}
}

func TestADeletionExcludesCreationsThatReferToIt(t *testing.T) {
	class := &resource.Resource{Meta: resource.Meta{Key: resource.Key{Kind: api.MachineClass, Name: "small"}}, Spec: &v1alpha1.MachineClassSpec{}}
	lan := &resource.Resource{Meta: resource.Meta{Key: resource.Key{Kind: api.Network, Project: "shop", Name: "lan"}}, Spec: &v1alpha1.NetworkSpec{}}
	project := &resource.Resource{Meta: resource.Meta{Key: resource.Key{Kind: api.Project, Name: "shop"}}, Spec: &v1alpha1.ProjectSpec{}}
	nic := &resource.Resource{Meta: resource.Meta{Key: resource.Key{Kind: api.NetworkInterface, Project: "shop", Name: "n"}},
		Spec: &v1alpha1.NetworkInterfaceSpec{NetworkRef: &v1alpha1.LocalRef{Name: "lan"}}}
	m := &resource.Resource{Meta: resource.Meta{Key: resource.Key{Kind: api.Machine, Project: "shop", Name: "m"}}, Spec: &v1alpha1.MachineSpec{
		MachineClassRef:   &v1alpha1.LocalRef{Name: "small"},
		NetworkInterfaces: []*v1alpha1.MachineInterface{{Name: "a", NetworkInterfaceRef: &v1alpha1.LocalRef{Name: "n"}}},
	}}
	excludes := func(a, b []admission.Claim) bool {
		for _, x := range a {
			for _, y := range b {
				if x.Name == y.Name && (x.Exclusive || y.Exclusive) {
					return true
				}
			}
		}
		return false
	}
	for _, test := range []struct {
		deleted, created *resource.Resource
		want             bool
	}{
		{class, m, true}, {project, m, true}, {nic, m, true}, {lan, m, false},
		{lan, nic, true}, {project, nic, true}, {class, nic, false},
	} {
		if got := excludes(admission.Claims(test.deleted, nil), admission.Claims(nil, test.created)); got != test.want {
			t.Errorf("deletion of %s excludes creation of %s: %v, want %v", test.deleted.Key, test.created.Key, got, test.want)
		}
	}
	if excludes(admission.Claims(nil, nic), admission.Claims(nil, nic)) {
		t.Error("interfaces without fixed addresses wait for each other")
	}
}
