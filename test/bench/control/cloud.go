package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"ingot/controlplane/api/client"
	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/pki"
	"ingot/test/lab"
	"ingot/test/lab/cloud"
)

// realBase is what machines of a real cloud need.
const realBase = `
apiVersion: core.ironcore.dev/v1alpha1
kind: Project
metadata: {name: shop}
---
apiVersion: compute.ironcore.dev/v1alpha1
kind: MachineClass
metadata: {name: small}
capabilities: {cpu: 1, memory: 128Mi}
---
apiVersion: networking.ironcore.dev/v1alpha1
kind: Network
metadata: {name: lan, namespace: shop}
---
apiVersion: ipam.ironcore.dev/v1alpha1
kind: Prefix
metadata: {name: lan-v4, namespace: shop}
spec: {prefix: 10.0.0.0/24}
`

// realMachine is a machine with all a machine has: an interface, addresses and a disk of an image.
const realMachine = `
apiVersion: compute.ironcore.dev/v1alpha1
kind: Machine
metadata: {name: %s, namespace: shop}
spec:
  machineClassRef: {name: small}
  volumes:
  - {name: root, localDisk: {sizeLimit: 64Mi, image: "` + cloud.ImageRef + `"}}
  networkInterfaces:
  - name: eth0
    ephemeral:
      networkInterfaceTemplate:
        metadata: {labels: {app: web}}
        spec:
          networkRef: {name: lan}
          ipFamilies: [IPv4]
          ips: [{ephemeral: {prefixTemplate: {spec: {ipFamily: IPv4, prefixLength: 32, parentRef: {name: lan-v4}}}}}]
`

// realCloud is a control plane, a reflector and two hosts as processes, and a way to the API from
// outside of their namespaces.
type realCloud struct {
	*cloud.Cloud
	plane    *plane
	admin    *client.Client
	bin      string
	listener net.Listener
}

// startCloud builds the programs and starts them.
func startCloud(ctx context.Context) (_ *realCloud, err error) {
	bin, err := os.MkdirTemp("", "ingot-bench-")
	if err != nil {
		return nil, err
	}
	c := &realCloud{bin: bin}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", bin, "ingot/cmd/...").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build programs: %w: %s", err, out)
	}
	images, err := lab.CacheDir()
	if err != nil {
		return nil, err
	}
	if _, err := lab.BuildGuestImage(images); err != nil {
		return nil, err
	}
	if c.Cloud, err = cloud.New(cloud.Config{Bin: bin, Images: images}); err != nil {
		return nil, err
	}
	if err := c.Start(ctx); err != nil {
		return nil, err
	}
	keys, err := pki.OpenDir(filepath.Dir(c.AdminContext()))
	if err != nil {
		return nil, err
	}
	if c.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	go c.forward()
	c.plane = &plane{keys: keys, address: c.listener.Addr().String()}
	if c.admin, err = c.plane.admin(); err != nil {
		return nil, err
	}
	if err := apply(ctx, c.admin, realBase); err != nil {
		return nil, err
	}
	_, err = c.Ingot(ctx, "wait", "machinepool/host-1", "machinepool/host-2", "--for=Ready", "--timeout=60s")
	return c, err
}

// forward carries connections into the spine's namespace until the listener is closed.
func (c *realCloud) forward() {
	for {
		outside, err := c.listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer outside.Close()
			var inside net.Conn
			err := c.Fabric.Spine.Do(func() (err error) {
				inside, err = net.Dial("tcp", c.Server())
				return err
			})
			if err != nil {
				return
			}
			defer inside.Close()
			go func() {
				defer inside.Close()
				_, _ = io.Copy(inside, outside)
			}()
			_, _ = io.Copy(outside, inside)
		}()
	}
}

func (c *realCloud) close() error {
	var errs []error
	if c.admin != nil {
		errs = append(errs, c.admin.Close())
	}
	if c.listener != nil {
		errs = append(errs, c.listener.Close())
	}
	if c.Cloud != nil {
		errs = append(errs, c.Cloud.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(c.bin))...)
}

// run creates a machine and waits until it runs and its guest has booted.
func (c *realCloud) run(ctx context.Context, name string) (lab.Guest, error) {
	if err := apply(ctx, c.admin, fmt.Sprintf(realMachine, name)); err != nil {
		return lab.Guest{}, err
	}
	if _, err := c.Ingot(ctx, "wait", "machine/"+name, "-n", "shop", "--for=Running", "--timeout=60s"); err != nil {
		return lab.Guest{}, err
	}
	guest, err := c.Machine(ctx, "shop", name)
	if err == nil {
		err = guest.WaitReady(ctx)
	}
	return guest, err
}

// remove deletes a machine and waits for its end.
func (c *realCloud) remove(ctx context.Context, name string) error {
	_, err := c.Ingot(ctx, "delete", "machine/"+name, "-n", "shop", "--timeout=60s")
	return err
}

// port is what the host keeps of a machine's interface.
type port struct {
	Device string
	Spec   struct {
		Addresses []netip.Addr
		Underlay  netip.Addr
	}
}

func portOf(guest lab.Guest) (p port, err error) {
	files, err := filepath.Glob(guest.Host.Path("/var/lib/ingot/dataplane/" + guest.Domain + "*.json"))
	if err != nil {
		return p, err
	}
	if len(files) != 1 {
		return p, fmt.Errorf("machine %s has %d ports, want one: %s", guest.Domain, len(files), strings.Join(files, " "))
	}
	data, err := os.ReadFile(files[0])
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	if err == nil && len(p.Spec.Addresses) == 0 {
		err = fmt.Errorf("port of machine %s has no address", guest.Domain)
	}
	return p, err
}

// simulate connects n more hosts, which take their views and send heartbeats as agents do. They
// offer no class, so nothing is placed there.
func (c *realCloud) simulate(ctx context.Context, n int) (stop func() error, err error) {
	links := make([]*link, 0, n)
	stop = func() error {
		var errs []error
		for _, l := range links {
			errs = append(errs, l.conn.Close())
		}
		return errors.Join(errs...)
	}
	for i := range n {
		l, err := c.plane.connect(ctx, fmt.Sprintf("simulated-%04d", i))
		if err != nil {
			return stop, err
		}
		links = append(links, l)
		go func() { _ = l.until(func(*v1alpha1.HostView) bool { return false }) }()
		go l.beat(ctx, time.Duration(i)*heartbeat/time.Duration(n))
	}
	return stop, nil
}

const heartbeat = 5 * time.Second

// beat reports the host until its stream ends, the first time after a delay.
func (l *link) beat(ctx context.Context, delay time.Duration) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
		delay = heartbeat
		report := &v1alpha1.HostReport{Pool: &v1alpha1.MachinePoolStatus{State: "Ready", Capacity: map[string]string{"cpu": "64"}}}
		if l.stream.Send(report) != nil {
			return
		}
	}
}
