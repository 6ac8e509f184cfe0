package machine

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/controlplane/api/v1alpha1"
)

func TestVolumesAreFilledIn(t *testing.T) {
	disk := func(name, device, size, image string) *v1alpha1.MachineVolume {
		return &v1alpha1.MachineVolume{Name: name, Device: device, LocalDisk: &v1alpha1.LocalDisk{SizeLimit: size, Image: image}}
	}
	for _, tc := range []struct {
		name string
		spec *v1alpha1.MachineSpec
		want []Volume
	}{
		{"none", &v1alpha1.MachineSpec{}, []Volume{}},
		{"the image is the root disk", &v1alpha1.MachineSpec{Image: "i", Volumes: []*v1alpha1.MachineVolume{disk("data", "", "1Gi", "")}},
			[]Volume{{"root", "oda", 10 << 30, "i"}, {"data", "odb", 1 << 30, ""}}},
		{"devices that are given stay", &v1alpha1.MachineSpec{Volumes: []*v1alpha1.MachineVolume{disk("a", "", "1M", "x"), disk("b", "oda", "2M", ""), disk("c", "", "3M", "")}},
			[]Volume{{"a", "odb", 1954 * 512, "x"}, {"b", "oda", 3907 * 512, ""}, {"c", "odc", 5860 * 512, ""}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Volumes(tc.spec)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("Volumes (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := Volumes(&v1alpha1.MachineSpec{Volumes: []*v1alpha1.MachineVolume{disk("a", "", "much", "")}}); err == nil {
		t.Error("a size that is no quantity was accepted")
	}
	taken := map[string]bool{}
	for range 26 {
		taken[freeDevice(taken)] = true
	}
	if got := freeDevice(taken); got != "odaa" {
		t.Errorf("27th device is %s, want odaa", got)
	}
}
