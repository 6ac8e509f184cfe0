package machine

import (
	"encoding/json"
	"fmt"
	"net"

	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	meta "github.com/ironcore-dev/ironcore/iri/apis/meta/v1alpha1"
	"google.golang.org/protobuf/encoding/protojson"
)

// A record is what the server knows of a machine durably. It is frozen: a change makes a new one.
type record struct {
	// Metadata and Spec are what clients see, except for what the server adds to Metadata (id,
	// generation, times).
	Metadata *meta.ObjectMetadata
	Spec     *api.MachineSpec
	// Resources are the class's at creation; a class that changes later does not change the machine.
	Resources Resources
	Run       runState
	// GuestOff is set when the guest switched itself off while it should run.
	GuestOff bool
	// Prepared is set when image and disks were complete once. From then on a missing disk is a
	// loss to report, never one to make anew.
	Prepared bool
	// Boot says which files the image brought besides the disk.
	Boot bootRecord
	// Ports are what the machine's interfaces were last given, in the order of the spec.
	Ports []portRecord
}

// runState is what the server last did to the domain; it tells a guest's own poweroff, a crash
// and a requested stop apart. "up" is written after a start, "stopping" before a stop.
type runState string

const (
	runIdle     runState = ""
	runUp       runState = "up"
	runStopping runState = "stopping"
)

type bootRecord struct {
	Kernel    bool   `json:"kernel,omitempty"`
	Initramfs bool   `json:"initramfs,omitempty"`
	Cmdline   string `json:"cmdline,omitempty"`
}

type portRecord struct {
	NIC    string `json:"nic"`
	Device string `json:"device"`
	MAC    string `json:"mac"`
	MTU    int    `json:"mtu,omitempty"`
	Handle string `json:"handle"`
}

func (p portRecord) hardwareAddr() (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(p.MAC)
	if err != nil {
		return nil, fmt.Errorf("read address of port %s: %w", p.NIC, err)
	}
	return mac, nil
}

func (r *record) id() string     { return r.Metadata.GetId() }
func (r *record) uid() string    { return r.Metadata.GetLabels()[UIDLabel] }
func (r *record) deleting() bool { return r.Metadata.GetDeletedAt() != 0 }
func (r *record) wantsOn() bool  { return r.Spec.GetPower() == api.Power_POWER_ON }

// port returns what the interface was last given.
func (r *record) port(nic string) (portRecord, bool) {
	for _, p := range r.Ports {
		if p.NIC == nic {
			return p, true
		}
	}
	return portRecord{}, false
}

// recordFormat is the version of recordFile.
const recordFormat = 1

// recordFile is a record as it lies on disk. The API's messages are in protobuf's own JSON, which
// keeps every byte of secrets and attributes.
type recordFile struct {
	Format    int             `json:"format"`
	Metadata  json.RawMessage `json:"metadata"`
	Spec      json.RawMessage `json:"spec"`
	Resources Resources       `json:"resources"`
	Run       runState        `json:"run,omitempty"`
	GuestOff  bool            `json:"guestOff,omitempty"`
	Prepared  bool            `json:"prepared,omitempty"`
	Boot      bootRecord      `json:"boot,omitzero"`
	Ports     []portRecord    `json:"ports,omitempty"`
}

func (r *record) encode() ([]byte, error) {
	metadata, err := protojson.Marshal(r.Metadata)
	if err != nil {
		return nil, fmt.Errorf("encode metadata: %w", err)
	}
	spec, err := protojson.Marshal(r.Spec)
	if err != nil {
		return nil, fmt.Errorf("encode spec: %w", err)
	}
	return json.Marshal(recordFile{
		Format: recordFormat, Metadata: metadata, Spec: spec, Resources: r.Resources, Run: r.Run,
		GuestOff: r.GuestOff, Prepared: r.Prepared, Boot: r.Boot, Ports: r.Ports,
	})
}

func decodeRecord(id string, data []byte) (*record, error) {
	var f recordFile
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("decode record: %w", err)
	}
	if f.Format != recordFormat {
		return nil, fmt.Errorf("decode record: format %d is not %d", f.Format, recordFormat)
	}
	r := &record{
		Metadata: &meta.ObjectMetadata{}, Spec: &api.MachineSpec{}, Resources: f.Resources, Run: f.Run,
		GuestOff: f.GuestOff, Prepared: f.Prepared, Boot: f.Boot, Ports: f.Ports,
	}
	if err := protojson.Unmarshal(f.Metadata, r.Metadata); err != nil {
		return nil, fmt.Errorf("decode metadata: %w", err)
	}
	if err := protojson.Unmarshal(f.Spec, r.Spec); err != nil {
		return nil, fmt.Errorf("decode spec: %w", err)
	}
	if r.id() != id {
		return nil, fmt.Errorf("decode record: it is of machine %q", r.id())
	}
	return r, nil
}
