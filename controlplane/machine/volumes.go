package machine

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/resource"

	"ingot/controlplane/api/v1alpha1"
)

// DefaultDiskSize is that of a local disk whose size is not given.
const DefaultDiskSize = "10Gi"

// DefaultIgnitionKey is the key of a secret that holds ignition data, when the machine names none.
const DefaultIgnitionKey = "ignition.yaml"

// RootVolume is the name of the disk that a machine's image shorthand stands for.
const RootVolume = "root"

// sector is what disks are made of, in bytes; sizes are rounded up to whole ones.
const sector = 512

// MaxVolumes is how many disks a host gives a machine.
const MaxVolumes = 26

// A Volume is a local disk of a machine with everything filled in.
type Volume struct {
	Name   string
	Device string // oda, odb, ...
	Bytes  uint64
	Image  string // empty: a blank disk
}

// Volumes are the disks of a machine in order, the one its image stands for first. Devices that are
// not given are the first free ones.
func Volumes(m *v1alpha1.MachineSpec) ([]Volume, error) {
	given := m.GetVolumes()
	if m.GetImage() != "" && !hasVolume(given, RootVolume) {
		root := &v1alpha1.MachineVolume{Name: RootVolume, LocalDisk: &v1alpha1.LocalDisk{Image: m.GetImage()}}
		given = append([]*v1alpha1.MachineVolume{root}, given...)
	}
	taken := map[string]bool{}
	for _, v := range given {
		taken[v.GetDevice()] = true
	}
	out := make([]Volume, len(given))
	for i, v := range given {
		size := DefaultDiskSize
		for _, d := range []*v1alpha1.LocalDisk{v.GetLocalDisk(), v.GetEmptyDisk()} {
			if d.GetSizeLimit() != "" {
				size = d.GetSizeLimit()
			}
		}
		q, err := resource.ParseQuantity(size)
		if err != nil || q.Sign() <= 0 {
			return nil, fmt.Errorf("size %q of volume %q is not a positive quantity", size, v.GetName())
		}
		bytes := (uint64(q.Value()) + sector - 1) / sector * sector
		out[i] = Volume{Name: v.GetName(), Device: v.GetDevice(), Bytes: bytes, Image: v.GetLocalDisk().GetImage()}
		if out[i].Device == "" {
			out[i].Device = freeDevice(taken)
			taken[out[i].Device] = true
		}
	}
	return out, nil
}

func hasVolume(volumes []*v1alpha1.MachineVolume, name string) bool {
	for _, v := range volumes {
		if v.GetName() == name {
			return true
		}
	}
	return false
}

// freeDevice is the first of oda to odz, then odaa to odzz, that is not taken.
func freeDevice(taken map[string]bool) string {
	for i := 0; ; i++ {
		name := "od" + letters(i)
		if !taken[name] {
			return name
		}
	}
}

func letters(i int) string {
	if i < 26 {
		return string(rune('a' + i))
	}
	return letters(i/26-1) + string(rune('a'+i%26))
}
