// Package api owns what clients and servers share: which kinds there are, how a manifest becomes
// an Object and an Object a stored resource. It does no I/O.
package api

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/resource"
)

// The kinds that users see.
const (
	Project          resource.Kind = "Project"
	Secret           resource.Kind = "Secret"
	Event            resource.Kind = "Event"
	MachineClass     resource.Kind = "MachineClass"
	MachinePool      resource.Kind = "MachinePool"
	Machine          resource.Kind = "Machine"
	Network          resource.Kind = "Network"
	NetworkInterface resource.Kind = "NetworkInterface"
	NetworkPolicy    resource.Kind = "NetworkPolicy"
	Prefix           resource.Kind = "Prefix"
	PrefixAllocation resource.Kind = "PrefixAllocation"
	JoinToken        resource.Kind = "JoinToken"
)

// The kinds that controllers and hosts own. A companion has the project and name of the object it
// speaks of; its spec is part of that object's status.
const (
	MachinePlacement    resource.Kind = "MachinePlacement"
	MachineStatus       resource.Kind = "MachineStatus"
	MachineProgress     resource.Kind = "MachineProgress"
	MachinePoolStatus   resource.Kind = "MachinePoolStatus"
	MachinePoolUsage    resource.Kind = "MachinePoolUsage"
	MachinePoolPresence resource.Kind = "MachinePoolPresence"
	NetworkStatus       resource.Kind = "NetworkStatus"
	VNIAllocation       resource.Kind = "VNIAllocation"
	InterfaceStatus     resource.Kind = "InterfaceStatus"
	NetworkPolicyStatus resource.Kind = "NetworkPolicyStatus"
	PrefixStatus        resource.Kind = "PrefixStatus"
	CompiledPolicy      resource.Kind = "CompiledPolicy"
	HostMachine         resource.Kind = "HostMachine"
	HostInterface       resource.Kind = "HostInterface"
	JoinTokenStatus     resource.Kind = "JoinTokenStatus"
	Request             resource.Kind = "Request"
	ServerState         resource.Kind = "ServerState"
)

// The groups of apiVersion.
const (
	coreGroup       = "core.ironcore.dev"
	computeGroup    = "compute.ironcore.dev"
	networkingGroup = "networking.ironcore.dev"
	ipamGroup       = "ipam.ironcore.dev"
	version         = "v1alpha1"
)

// Index names; the value of each is given beside it.
const (
	ByHost      = "host"      // HostMachine, HostInterface: host name
	ByUID       = "uid"       // HostMachine, HostInterface: uid of the Machine or NetworkInterface
	ByAddress   = "address"   // InterfaceStatus: <vni>/<ip>
	ByMAC       = "mac"       // InterfaceStatus: <vni>/<mac>
	ByPool      = "pool"      // MachinePlacement: pool name
	ByClass     = "class"     // Machine: class name
	ByNetwork   = "network"   // NetworkInterface, NetworkPolicy and their companions: network name (within the project)
	ByMachine   = "machine"   // NetworkInterface: machine name (within the project)
	ByParent    = "parent"    // Prefix: parent's name; PrefixAllocation: uid of the Prefix it is part of
	ByHolder    = "holder"    // PrefixAllocation: uid of the object that holds it; Prefix: name of the interface it was made for (within the project)
	ByInterface = "interface" // CompiledPolicy: uid of the interface; HostMachine: uids of its interfaces; Machine: their names (within the project)
	ByInvolved  = "involved"  // Event: uid of the object it speaks of
	BySecret    = "secret"    // Machine: name of the secret that it refers to (within the project)
)

// Labels and annotations that controllers put on what they make.
const (
	// LabelNetwork is the network that a companion of an interface or policy belongs to.
	LabelNetwork = "ingot.dev/network"
	// LabelInterface is the network interface that a Prefix was made for.
	LabelInterface = "ingot.dev/interface"
	// AnnotationUID is the uid of the object that this one was made for.
	AnnotationUID = "ingot.dev/for-uid"
)

// labelled indexes by the value of a label.
func labelled(label string) func(*resource.Resource) []string {
	return func(r *resource.Resource) []string {
		if v := r.Labels[label]; v != "" {
			return []string{v}
		}
		return nil
	}
}

// Info is what is known of a kind beyond its definition.
type Info struct {
	resource.Definition
	// Group is the API group; empty for kinds that users do not see.
	Group string
	// Plural is the lower-case plural; Short are further names.
	Plural string
	Short  []string
	// ReadOnly kinds are written by the server only.
	ReadOnly bool
	// Flat kinds have the fields of their spec beside metadata.
	Flat bool
	// Status returns an empty status; nil when the kind has none.
	Status func() proto.Message
	// Companions are the kinds whose specs make up the status.
	Companions []resource.Kind
}

// APIVersion is group/version.
func (i Info) APIVersion() string { return i.Group + "/" + version }

func message[T any, P interface {
	*T
	proto.Message
}]() func() proto.Message {
	return func() proto.Message { return P(new(T)) }
}

type indexes = map[string]func(*resource.Resource) []string

// one indexes by a single value; the empty value is not indexed.
func one[T proto.Message](value func(T) string) func(*resource.Resource) []string {
	return func(r *resource.Resource) []string {
		if v := value(r.Spec.(T)); v != "" {
			return []string{v}
		}
		return nil
	}
}

var infos = []Info{
	{Definition: resource.Definition{Kind: Project, New: message[v1alpha1.ProjectSpec](), Global: true},
		Group: coreGroup, Plural: "projects", Short: []string{"proj", "namespace", "ns"}},
	{Definition: resource.Definition{Kind: Secret, New: message[v1alpha1.SecretSpec](), Sealed: true},
		Group: coreGroup, Plural: "secrets", Flat: true},
	{Definition: resource.Definition{Kind: Event, New: message[v1alpha1.EventSpec](), Indexes: indexes{
		ByInvolved: one(func(s *v1alpha1.EventSpec) string { return s.GetInvolvedObject().GetUid() }),
	}}, Group: coreGroup, Plural: "events", Short: []string{"ev"}, Flat: true, ReadOnly: true},

	{Definition: resource.Definition{Kind: MachineClass, New: message[v1alpha1.MachineClassSpec](), Global: true},
		Group: computeGroup, Plural: "machineclasses", Short: []string{"mc"}, Flat: true},
	{Definition: resource.Definition{Kind: MachinePool, New: message[v1alpha1.MachinePoolSpec](), Global: true},
		Group: computeGroup, Plural: "machinepools", Short: []string{"mp", "pool", "host"},
		Status: message[v1alpha1.MachinePoolStatus](), Companions: []resource.Kind{MachinePoolStatus, MachinePoolPresence, MachinePoolUsage}},
	{Definition: resource.Definition{Kind: Machine, New: message[v1alpha1.MachineSpec](), Indexes: indexes{
		ByClass:  one(func(s *v1alpha1.MachineSpec) string { return s.GetMachineClassRef().GetName() }),
		BySecret: one(func(s *v1alpha1.MachineSpec) string { return s.GetIgnitionRef().GetName() }),
		ByInterface: func(r *resource.Resource) []string {
			return InterfaceNames(r.Name, r.Spec.(*v1alpha1.MachineSpec))
		},
	}}, Group: computeGroup, Plural: "machines", Short: []string{"m", "vm"},
		Status: message[v1alpha1.MachineStatus](), Companions: []resource.Kind{MachineStatus, MachinePlacement, MachineProgress}},

	{Definition: resource.Definition{Kind: Network, New: message[v1alpha1.NetworkSpec]()},
		Group: networkingGroup, Plural: "networks", Short: []string{"net"},
		Status: message[v1alpha1.NetworkStatus](), Companions: []resource.Kind{NetworkStatus}},
	{Definition: resource.Definition{Kind: NetworkInterface, New: message[v1alpha1.NetworkInterfaceSpec](), Indexes: indexes{
		ByNetwork: one(func(s *v1alpha1.NetworkInterfaceSpec) string { return s.GetNetworkRef().GetName() }),
		ByMachine: one(func(s *v1alpha1.NetworkInterfaceSpec) string { return s.GetMachineRef().GetName() }),
	}}, Group: networkingGroup, Plural: "networkinterfaces", Short: []string{"nic"},
		Status: message[v1alpha1.NetworkInterfaceStatus](), Companions: []resource.Kind{InterfaceStatus}},
	{Definition: resource.Definition{Kind: NetworkPolicy, New: message[v1alpha1.NetworkPolicySpec](), Indexes: indexes{
		ByNetwork: one(func(s *v1alpha1.NetworkPolicySpec) string { return s.GetNetworkRef().GetName() }),
	}}, Group: networkingGroup, Plural: "networkpolicies", Short: []string{"netpol"},
		Status: message[v1alpha1.NetworkPolicyStatus](), Companions: []resource.Kind{NetworkPolicyStatus}},

	{Definition: resource.Definition{Kind: Prefix, New: message[v1alpha1.PrefixSpec](), Indexes: indexes{
		ByParent: one(func(s *v1alpha1.PrefixSpec) string { return s.GetParentRef().GetName() }),
		ByHolder: labelled(LabelInterface),
	}}, Group: ipamGroup, Plural: "prefixes", Short: []string{"pfx"},
		Status: message[v1alpha1.PrefixStatus](), Companions: []resource.Kind{PrefixStatus}},
	{Definition: resource.Definition{Kind: PrefixAllocation, New: message[v1alpha1.PrefixAllocationSpec](), Indexes: indexes{
		ByParent: one((*v1alpha1.PrefixAllocationSpec).GetPrefixUid),
		ByHolder: one((*v1alpha1.PrefixAllocationSpec).GetHolderUid),
	}}, Group: ipamGroup, Plural: "prefixallocations", Short: []string{"pa"}, ReadOnly: true},
	{Definition: resource.Definition{Kind: JoinToken, New: message[v1alpha1.JoinTokenSpec](), Global: true},
		Group: coreGroup, Plural: "jointokens",
		Status: message[v1alpha1.JoinTokenStatus](), Companions: []resource.Kind{JoinTokenStatus}},

	{Definition: resource.Definition{Kind: MachinePlacement, New: message[v1alpha1.MachinePlacementSpec](), Indexes: indexes{
		ByPool: one((*v1alpha1.MachinePlacementSpec).GetPool),
	}}},
	{Definition: resource.Definition{Kind: MachineStatus, New: message[v1alpha1.MachineStatus]()}},
	{Definition: resource.Definition{Kind: MachinePoolStatus, New: message[v1alpha1.MachinePoolStatus](), Global: true}},
	{Definition: resource.Definition{Kind: MachineProgress, New: message[v1alpha1.MachineProgressSpec]()}},
	{Definition: resource.Definition{Kind: MachinePoolUsage, New: message[v1alpha1.MachinePoolUsageSpec](), Global: true}},
	{Definition: resource.Definition{Kind: MachinePoolPresence, New: message[v1alpha1.MachinePoolPresenceSpec](), Global: true}},
	{Definition: resource.Definition{Kind: VNIAllocation, New: message[v1alpha1.VNIAllocationSpec](), Global: true}},
	{Definition: resource.Definition{Kind: NetworkStatus, New: message[v1alpha1.NetworkStatus]()}},
	{Definition: resource.Definition{Kind: InterfaceStatus, New: message[v1alpha1.NetworkInterfaceStatus](), Indexes: indexes{
		ByNetwork: labelled(LabelNetwork),
		ByAddress: func(r *resource.Resource) []string {
			s := r.Spec.(*v1alpha1.NetworkInterfaceStatus)
			keys := make([]string, len(s.GetIps()))
			for i, ip := range s.GetIps() {
				keys[i] = InNetwork(s.GetVni(), ip)
			}
			return keys
		},
		ByMAC: func(r *resource.Resource) []string {
			s := r.Spec.(*v1alpha1.NetworkInterfaceStatus)
			if s.GetMac() == "" {
				return nil
			}
			return []string{InNetwork(s.GetVni(), s.GetMac())}
		},
	}}},
	{Definition: resource.Definition{Kind: NetworkPolicyStatus, New: message[v1alpha1.NetworkPolicyStatus](), Indexes: indexes{
		ByNetwork: labelled(LabelNetwork),
	}}},
	{Definition: resource.Definition{Kind: PrefixStatus, New: message[v1alpha1.PrefixStatus]()}},
	{Definition: resource.Definition{Kind: CompiledPolicy, New: message[v1alpha1.CompiledPolicySpec](), Indexes: indexes{
		ByInterface: one((*v1alpha1.CompiledPolicySpec).GetInterfaceUid),
		ByNetwork:   labelled(LabelNetwork),
	}}},
	{Definition: resource.Definition{Kind: HostMachine, New: message[v1alpha1.HostMachineSpec](), Sealed: true, Indexes: indexes{
		ByHost: one((*v1alpha1.HostMachineSpec).GetHost),
		ByUID:  one((*v1alpha1.HostMachineSpec).GetUid),
		ByInterface: func(r *resource.Resource) []string {
			var uids []string
			for _, nic := range r.Spec.(*v1alpha1.HostMachineSpec).GetInterfaces() {
				uids = append(uids, nic.GetInterfaceUid())
			}
			return uids
		},
	}}},
	{Definition: resource.Definition{Kind: HostInterface, New: message[v1alpha1.HostInterfaceSpec](), Indexes: indexes{
		ByHost: one((*v1alpha1.HostInterfaceSpec).GetHost),
		ByUID:  one((*v1alpha1.HostInterfaceSpec).GetUid),
	}}},
	{Definition: resource.Definition{Kind: JoinTokenStatus, New: message[v1alpha1.JoinTokenStatus](), Global: true}},
	{Definition: resource.Definition{Kind: Request, New: message[v1alpha1.RequestSpec](), Global: true}},
	{Definition: resource.Definition{Kind: ServerState, New: message[v1alpha1.ServerStateSpec](), Global: true}},
}

// InterfaceName is the NetworkInterface that nic of the machine is attached to: the one it refers
// to, or <machine>-<nic> for one that is made with the machine.
func InterfaceName(machine string, nic *v1alpha1.MachineInterface) string {
	if ref := nic.GetNetworkInterfaceRef().GetName(); ref != "" {
		return ref
	}
	return machine + "-" + nic.GetName()
}

// InterfaceNames are those of all NICs of the machine, in order.
func InterfaceNames(machine string, spec *v1alpha1.MachineSpec) []string {
	names := make([]string, len(spec.GetNetworkInterfaces()))
	for i, nic := range spec.GetNetworkInterfaces() {
		names[i] = InterfaceName(machine, nic)
	}
	return names
}

// InNetwork is the index value of an address, IP or MAC, within the network with vni.
func InNetwork(vni uint32, address string) string { return fmt.Sprintf("%d/%s", vni, address) }

// Kinds returns all kinds, those of users first, in the order in which one may refer to another.
func Kinds() []Info { return infos }

// Schema is that of the control plane's store.
func Schema() *resource.Schema {
	defs := make([]resource.Definition, len(infos))
	for i, info := range infos {
		defs[i] = info.Definition
	}
	return resource.NewSchema(defs...)
}

// Lookup finds a kind by its exact name.
func Lookup(kind resource.Kind) (Info, bool) {
	for _, info := range infos {
		if info.Kind == kind {
			return info, true
		}
	}
	return Info{}, false
}

// Find finds a kind that users see by kind, plural or short name, in any case, with or without group.
func Find(name string) (Info, bool) {
	name, group, _ := strings.Cut(strings.ToLower(name), ".")
	for _, info := range infos {
		if info.Group == "" || group != "" && !strings.HasPrefix(info.Group, group) {
			continue
		}
		if name == strings.ToLower(string(info.Kind)) || name == info.Plural {
			return info, true
		}
		for _, s := range info.Short {
			if s == name || s+"s" == name {
				return info, true
			}
		}
	}
	return Info{}, false
}
