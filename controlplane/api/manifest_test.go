package api

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"ingot/controlplane/api/v1alpha1"
	"ingot/runtime/fault"
)

const machineManifest = `
apiVersion: compute.ironcore.dev/v1alpha1
kind: Machine
metadata:
  name: web
  namespace: shop
  labels: {app: web}
spec:
  machineClassRef: {name: small}
  networkInterfaces:
  - name: primary
    ephemeral:
      networkInterfaceTemplate:
        spec:
          networkRef: {name: net}
          ipFamilies: [IPv4]
          ips:
          - ephemeral:
              prefixTemplate:
                spec: {prefixLength: 32, parentRef: {name: v4}}
  volumes:
  - name: root
    localDisk: {sizeLimit: 1Gi, image: "registry.example/guest:1"}
`

func TestManifestOfIronCoreRoundTrips(t *testing.T) {
	objects, err := ReadManifests(strings.NewReader("# a comment\n---\n" + machineManifest + "---\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(objects) != 1 {
		t.Fatalf("got %d objects, want 1", len(objects))
	}
	tree, err := Tree(objects[0])
	if err != nil {
		t.Fatal(err)
	}
	got, err := yaml.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	var want, have any
	if err := yaml.Unmarshal([]byte(machineManifest), &want); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(got, &have); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("manifest changed (-want +got):\n%s", diff)
	}
}

func TestFlatKindsAndAliases(t *testing.T) {
	objects, err := ReadManifests(strings.NewReader(`
apiVersion: compute.ironcore.dev/v1alpha1
kind: MachineClass
metadata: {name: small}
capabilities: {cpu: 1, memory: 512Mi}
---
apiVersion: v1
kind: Secret
metadata: {name: ignition, namespace: shop}
data: {ignition.yaml: aGVsbG8=}
`))
	if err != nil {
		t.Fatal(err)
	}
	class, err := Spec(objects[0])
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"cpu": "1", "memory": "512Mi"}
	if diff := cmp.Diff(want, class.(*v1alpha1.MachineClassSpec).Capabilities); diff != "" {
		t.Errorf("capabilities (-want +got):\n%s", diff)
	}
	secret, err := Spec(objects[1])
	if err != nil {
		t.Fatal(err)
	}
	if got := string(secret.(*v1alpha1.SecretSpec).Data["ignition.yaml"]); got != "hello" {
		t.Errorf("secret data is %q", got)
	}
}

func TestValuesMeanWhatTheirAuthorWrote(t *testing.T) {
	text := strings.Replace(machineManifest, "spec:\n", "spec:\n  power: Off\n", 1)
	objects, err := ReadManifests(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	spec, err := Spec(objects[0])
	if err != nil {
		t.Fatal(err)
	}
	if got := spec.(*v1alpha1.MachineSpec).Power; got != "Off" {
		t.Errorf("power is %q, want Off", got)
	}
}

func TestFaultsNameTheFieldAndTheFix(t *testing.T) {
	for _, tt := range []struct{ name, from, to, want string }{
		{"unknown field", "machineClassRef:", "machineClasRef:", "spec.machineClasRef: unknown field; known are "},
		{"close name", "volumes:", "volume:", `spec.volume: unknown field; did you mean "volumes"?`},
		{"nested unknown field", "prefixLength: 32", "length: 32", "spec.networkInterfaces[0].ephemeral.networkInterfaceTemplate.spec.ips[0].ephemeral.prefixTemplate.spec.length: unknown field"},
		{"wrong type", "prefixLength: 32", "prefixLength: big", "prefixLength: expected a whole number from 0 to 4294967295, got big"},
		{"list expected", "ipFamilies: [IPv4]", "ipFamilies: IPv4", "ipFamilies: expected a list, got text"},
		{"text expected", "name: web", "name: [web]", "metadata.name: expected text, got a list"},
		{"no name", "name: web", "", "metadata.name: required"},
		{"wrong group", "compute.ironcore.dev/v1alpha1", "compute.ironcore.dev/v1", `use "compute.ironcore.dev/v1alpha1"`},
		{"unknown kind", "kind: Machine", "kind: Server", `no such kind "Server"`},
		{"status of the host is not a kind", "kind: Machine", "kind: MachineStatus", "no such kind"},
		{"duplicate key", "labels: {app: web}", "labels: {app: web, app: db}", `"app"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ReadManifests(strings.NewReader(strings.Replace(machineManifest, tt.from, tt.to, 1)))
			if !errors.Is(err, fault.Invalid) {
				t.Fatalf("got %v, want class Invalid", err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q, want it to say %q", err, tt.want)
			}
		})
	}
}
