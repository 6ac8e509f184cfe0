// Package machines measures the machine runtime: what it adds to libvirt's own define and start,
// and how fast it answers a list.
package machines

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	api "github.com/ironcore-dev/ironcore/iri/apis/machine/v1alpha1"
	meta "github.com/ironcore-dev/ironcore/iri/apis/meta/v1alpha1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"ingot/iri/machine"
	"ingot/iri/machine/domain"
	"ingot/iri/machine/domain/domaintest"
	"ingot/iri/machine/image"
	"ingot/test/bench/result"
)

// Benches are the benchmarks of this package.
func Benches() []result.Bench {
	return []result.Bench{
		{Names: []string{"machine/list_1000"}, Run: list},
		{Names: []string{"machine/create_start_1"}, Run: createStart("machine/create_start_1", 1, 5)},
		{Names: []string{"machine/create_start_10"}, Run: createStart("machine/create_start_10", 10, 3)},
		{Names: []string{"machine/create_start_50"}, Run: createStart("machine/create_start_50", 50, 1)},
	}
}

// runtime is a running machine runtime and a client at its socket.
type runtime struct {
	dir    string
	client api.MachineRuntimeClient
	stop   func() error
}

// start serves machines in dir until stop.
func start(dir string, deps machine.Deps, run ...func(context.Context) error) (*runtime, error) {
	deps.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	server, err := machine.New(deps, machine.Config{
		DeleteTimeout: -1, // nobody waits for guests that still boot
		Dir:           dir, Accel: domain.TCG, Capacity: machine.Resources{CPUs: 4096, MemoryBytes: 1 << 40},
		Classes: []machine.Class{{Name: "tiny", Capabilities: map[string]int64{"cpu": 1, "memory": 128 << 20}}},
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	socket := filepath.Join(dir, "iri.sock")
	run = append(run, server.Run, func(ctx context.Context) error { return server.Serve(ctx, socket) })
	var wg sync.WaitGroup
	errs := make([]error, len(run))
	for i, f := range run {
		wg.Go(func() { errs[i] = f(ctx) })
	}
	// A client that lists a thousand machines wants a window for all of them; the default is 64 KiB.
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithInitialWindowSize(8<<20), grpc.WithInitialConnWindowSize(8<<20))
	r := &runtime{dir: dir, client: api.NewMachineRuntimeClient(conn), stop: func() error {
		cancel()
		wg.Wait()
		return errors.Join(append(errs, conn.Close())...)
	}}
	if err == nil { // the socket is there
		_, err = r.client.Version(ctx, &api.VersionRequest{})
	}
	return r, err
}

// create makes one machine with a root disk of the image and, without one, an empty disk.
func (r *runtime) create(ctx context.Context, uid, ref string) (string, error) {
	disk := &api.LocalDisk{SizeBytes: 64 << 20}
	if ref != "" {
		disk.Image = &api.ImageSpec{Image: ref}
	}
	answer, err := r.client.CreateMachine(ctx, &api.CreateMachineRequest{Machine: &api.Machine{
		Metadata: &meta.ObjectMetadata{
			Labels:      map[string]string{machine.UIDLabel: uid},
			Annotations: map[string]string{"machinepoollet.ironcore.dev/machine-generation": "1"},
		},
		Spec: &api.MachineSpec{
			Class: "tiny", IgnitionData: []byte(`{"ignition":{"version":"3.4.0"}}`),
			Volumes: []*api.Volume{{Name: "root", Device: "oda", LocalDisk: disk}},
		},
	}})
	return answer.GetMachine().GetMetadata().GetId(), err
}

// await polls the list until ok.
func (r *runtime) await(ctx context.Context, ok func([]*api.Machine) bool) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		answer, err := r.client.ListMachines(ctx, &api.ListMachinesRequest{})
		if err != nil {
			return err
		}
		if ok(answer.Machines) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// running says whether n machines run.
func running(n int) func([]*api.Machine) bool {
	return func(machines []*api.Machine) bool {
		for _, m := range machines {
			if m.Status.State == api.MachineState_MACHINE_RUNNING {
				n--
			}
		}
		return n <= 0
	}
}

type noPorts struct{}

func (noPorts) EnsurePort(context.Context, machine.PortRequest) (machine.Port, error) {
	return machine.Port{}, errors.New("these machines have no interfaces")
}
func (noPorts) ReleasePort(context.Context, string, string) error { return nil }

type noImages struct{}

func (noImages) Ensure(context.Context, string) (image.Image, error) {
	return image.Image{}, errors.New("these machines have no images")
}

// workDir is a directory that the emulator may pass.
func workDir() (string, error) {
	dir, err := os.MkdirTemp("", "ingot-bench-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o711)
}

// list measures ListMachines of 1,000 running machines at the socket.
func list(ctx context.Context) (_ []result.Result, err error) {
	dir, err := workDir()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	r, err := start(dir, machine.Deps{Hypervisor: &domaintest.Fake{}, Images: noImages{}, Ports: noPorts{}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.stop()) }()
	const machines, repeats = 1000, 50
	for i := range machines {
		if _, err := r.create(ctx, fmt.Sprint("uid-", i), ""); err != nil {
			return nil, err
		}
	}
	if err := r.await(ctx, running(machines)); err != nil {
		return nil, err
	}
	var runs []float64
	for range repeats {
		begin := time.Now()
		if _, err := r.client.ListMachines(ctx, &api.ListMachinesRequest{}); err != nil {
			return nil, err
		}
		runs = append(runs, time.Since(begin).Seconds()*1000)
	}
	return []result.Result{result.New("machine/list_1000", "ms", result.AtMost(5), runs...)}, nil
}
