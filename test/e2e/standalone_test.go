package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	iri "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	irimeta "github.com/ironcore-dev/ironcore/iri/apis/meta/v1alpha1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"ingot/test/lab"
)

const standaloneConfig = `
host: host-1
standalone: true
underlay: {prefix: "%s", supernet: "%s", uplinks: [%s]}
machines:
  accelerator: "%s"
  imageLayouts: [/var/lib/ingot/images]
  reserve: {memory: 256Mi}
  classes: [{name: tiny, capabilities: {cpu: 1, memory: 128Mi}}]
`

// TestAgentWithoutControlPlane drives an agent by its IRI socket alone, as an IronCore machinepoollet
// would, on a host without a fabric: two machines on one host, in one network that only their network_id names.
func TestAgentWithoutControlPlane(t *testing.T) {
	f := prepare(t)
	fabric := lab.ForTest(t, lab.FabricConfig{Hosts: 1, Shared: map[string]string{"/var/lib/ingot/images": f.images}})
	h := fabric.Hosts[0]
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if _, err := h.StartLibvirt(ctx); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(h.Dir, "agent.yaml")
	text := fmt.Sprintf(standaloneConfig, h.Prefix, fabric.Range(), lab.Uplink, f.accelerator)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	agent, err := h.Start(lab.Program{Name: "ingot-agent", Args: []string{filepath.Join(f.bin, "ingot-agent"), "run", "--config", config}})
	if err != nil {
		t.Fatal(err)
	}
	const socket = "/run/iri-machineprovider.sock" // as /var/run, which leads out of the host from here
	if err := h.WaitSocket(ctx, agent, socket); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix://"+h.Path(socket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	runtime := iri.NewMachineRuntimeClient(conn)

	ids := map[string]string{}
	for i, name := range []string{"one", "two"} {
		ids[name] = createMachine(ctx, t, runtime, name, fmt.Sprintf("10.0.0.%d", i+2))
	}
	one := lab.Guest{Host: h, Domain: ids["one"]}
	for name, id := range ids {
		waitState(ctx, t, runtime, id, iri.MachineState_MACHINE_RUNNING)
		if err := (lab.Guest{Host: h, Domain: id}).WaitReady(ctx); err != nil {
			t.Fatalf("guest %s: %v", name, err)
		}
	}
	pingUntil(ctx, t, one, "10.0.0.3")
	for _, id := range ids {
		deleteMachine(ctx, t, runtime, id)
	}
	left, err := h.Virsh(ctx, "list", "--all", "--name")
	if err != nil || len(left) > 1 {
		t.Errorf("domains left: %q, %v", left, err)
	}
}

func createMachine(ctx context.Context, t *testing.T, runtime iri.MachineRuntimeClient, name, ip string) string {
	t.Helper()
	reply, err := runtime.CreateMachine(ctx, &iri.CreateMachineRequest{Machine: &iri.Machine{
		Metadata: &irimeta.ObjectMetadata{Labels: map[string]string{"machinepoollet.ironcore.dev/machine-uid": name}},
		Spec: &iri.MachineSpec{
			Class: "tiny",
			Volumes: []*iri.Volume{{Name: "root", Device: "oda", LocalDisk: &iri.LocalDisk{
				SizeBytes: 64 << 20, Image: &iri.ImageSpec{Image: "oci-layout:/var/lib/ingot/images/guest:latest"}}}},
			NetworkInterfaces: []*iri.NetworkInterface{{Name: "eth0", NetworkId: "ingot://vni/7", Ips: []string{ip}}},
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return reply.Machine.Metadata.Id
}

func waitState(ctx context.Context, t *testing.T, runtime iri.MachineRuntimeClient, id string, want iri.MachineState) {
	t.Helper()
	for {
		reply, err := runtime.ListMachines(ctx, &iri.ListMachinesRequest{Filter: &iri.MachineFilter{Id: id}})
		if err != nil {
			t.Fatal(err)
		}
		if len(reply.Machines) == 1 && reply.Machines[0].Status.State == want {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("machine %s is not %s: %v", id, want, reply.Machines)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func pingUntil(ctx context.Context, t *testing.T, g lab.Guest, address string) {
	t.Helper()
	for {
		result, err := g.Exec(ctx, "/bin/traffic", "ping", "-count", "3", address)
		if err == nil && result.ExitCode == 0 {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("ping %s: %v %s%s", address, err, result.Stdout, result.Stderr)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// deleteMachine asks again and again until the machine is not found, as upstream's poollet does.
func deleteMachine(ctx context.Context, t *testing.T, runtime iri.MachineRuntimeClient, id string) {
	t.Helper()
	for {
		_, err := runtime.DeleteMachine(ctx, &iri.DeleteMachineRequest{MachineId: id})
		if status.Code(err) == codes.NotFound {
			return
		}
		if err != nil {
			t.Fatalf("delete machine %s: %v", id, err)
		}
	}
}
