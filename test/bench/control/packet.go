package control

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"ingot/test/bench/result"
	"ingot/test/lab"
)

const openUDP = `
apiVersion: networking.ironcore.dev/v1alpha1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  networkRef: {name: lan}
  networkInterfaceSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress: [{ports: [{protocol: UDP, port: %d}]}]
`

const (
	ruleChanges = 100
	firstPort   = 20000
	simulated   = 1000
)

// apiToPacket measures from the call that changes a policy until the first packet that it allows
// reaches the machine's tap, in ms. Packets leave the other host every millisecond, in the tunnel,
// each of a connection of its own. It is done with two hosts, and again with 1,000 more connected.
func apiToPacket(ctx context.Context) (_ []result.Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	c, err := startCloud(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	p, err := c.newProbe(ctx)
	if err != nil {
		return nil, err
	}
	defer p.close()
	few, err := p.changes(ctx, firstPort)
	if err != nil {
		return nil, err
	}
	results := []result.Result{
		result.New("control/api_to_packet_2_hosts_p50", "ms", result.AtMost(50), few...),
		result.New("control/api_to_packet_2_hosts_p99", "ms", result.AtMost(250), p99(few)),
	}
	stop, err := c.simulate(ctx, simulated)
	defer func() { err = errors.Join(err, stop()) }()
	if err != nil {
		return results, err
	}
	many, err := p.changes(ctx, firstPort+ruleChanges)
	if err != nil {
		return results, err
	}
	return append(results,
		result.New("control/api_to_packet_p50", "ms", result.AtMost(50), many...),
		result.New("control/api_to_packet_p99", "ms", result.AtMost(250), p99(many)),
	), nil
}

func p99(runs []float64) float64 {
	sorted := slices.Sorted(slices.Values(runs))
	return sorted[len(sorted)*99/100]
}

// A probe sends packets to a machine from another host, and sees which of them reach its tap.
type probe struct {
	cloud          *realCloud
	port           port
	from           *lab.Host
	sender, reader int
	sent           uint16
}

func (c *realCloud) newProbe(ctx context.Context) (*probe, error) {
	// Without a policy every port would be open.
	if err := apply(ctx, c.admin, fmt.Sprintf(openUDP, firstPort-1)); err != nil {
		return nil, err
	}
	guest, err := c.run(ctx, "web")
	if err != nil {
		return nil, err
	}
	p := &probe{cloud: c, sender: -1, reader: -1}
	if p.port, err = portOf(guest); err != nil {
		return nil, err
	}
	for _, h := range c.Hosts {
		if h.Host != guest.Host {
			p.from = h.Host
		}
	}
	err = p.from.Do(func() (err error) {
		// IPPROTO_RAW: the caller writes the IPv6 header.
		p.sender, err = unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	})
	if err == nil {
		err = guest.Host.Do(p.listen)
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("open probe: %w", err)
	}
	return p, nil
}

// listen taps what is sent to the machine's device; a packet that the programs drop is not.
func (p *probe) listen() error {
	device, err := net.InterfaceByName(p.port.Device)
	if err != nil {
		return err
	}
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	if p.reader, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
		return err
	}
	second := unix.Timeval{Sec: 1}
	return errors.Join(
		unix.SetsockoptTimeval(p.reader, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &second),
		unix.Bind(p.reader, &unix.SockaddrLinklayer{Protocol: all, Ifindex: device.Index}),
	)
}

func (p *probe) close() {
	for _, fd := range []int{p.sender, p.reader} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// changes opens one port after the other and returns how long each took, in ms. The first ones,
// for which nothing is warm, do not count.
func (p *probe) changes(ctx context.Context, first int) ([]float64, error) {
	const warm = 5
	var runs []float64
	for i := range ruleChanges {
		took, err := p.change(ctx, uint16(first+i))
		if err != nil {
			return nil, fmt.Errorf("open port %d: %w", first+i, err)
		}
		if i >= warm {
			runs = append(runs, float64(took.Microseconds())/1000)
		}
	}
	return runs, nil
}

// change opens a port, of which it first sees that it is closed.
func (p *probe) change(ctx context.Context, number uint16) (time.Duration, error) {
	arrived, stop := make(chan error, 1), make(chan struct{})
	var at time.Time // written before arrived is sent to
	go func() {
		var err error
		at, err = p.await(number)
		arrived <- err
	}()
	sending := make(chan error, 1)
	go func() { sending <- p.send(number, stop) }()
	var begin time.Time
	var err error
	select {
	case err = <-arrived:
		err = errors.Join(err, errors.New("it was open before"))
	case <-time.After(20 * time.Millisecond):
		begin = time.Now()
		err = apply(ctx, p.cloud.admin, fmt.Sprintf(openUDP, number))
		err = errors.Join(err, <-arrived)
	}
	close(stop)
	return at.Sub(begin), errors.Join(err, <-sending)
}

// send sends a packet to the port every millisecond until stop.
func (p *probe) send(number uint16, stop <-chan struct{}) error {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	to := &unix.SockaddrInet6{Addr: p.port.Spec.Underlay.As16()}
	for {
		p.sent++
		packet := tunneled(p.from.Address, p.port.Spec.Underlay, p.port.Spec.Addresses[0], 1024+p.sent%60000, number)
		if err := unix.Sendto(p.sender, packet, 0, to); err != nil {
			return fmt.Errorf("send probe: %w", err)
		}
		select {
		case <-stop:
			return nil
		case <-ticker.C:
		}
	}
}

// await returns when the first packet to the port was seen at the machine.
func (p *probe) await(number uint16) (time.Time, error) {
	frame := make([]byte, 2048)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		n, from, err := unix.Recvfrom(p.reader, frame, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return time.Time{}, fmt.Errorf("read tap: %w", err)
		}
		link, ok := from.(*unix.SockaddrLinklayer)
		const header = 14 + 20 + 8 // Ethernet, IPv4 without options, UDP
		if ok && link.Pkttype == unix.PACKET_OUTGOING && n >= header && frame[12] == 8 && frame[13] == 0 &&
			frame[14+9] == unix.IPPROTO_UDP && binary.BigEndian.Uint16(frame[14+20+2:]) == number {
			return time.Now(), nil
		}
	}
	return time.Time{}, errors.New("no packet came within 30 s")
}

// tunneled is an empty UDP packet to a machine, in IPv6 as a host sends it (RFC 2473).
func tunneled(outerFrom, outerTo, to netip.Addr, fromPort, toPort uint16) []byte {
	const inner = 20 + 8
	b := append(make([]byte, 0, 40+inner), 0x60, 0, 0, 0, 0, inner, unix.IPPROTO_IPIP, 64)
	b = append(append(b, outerFrom.AsSlice()...), outerTo.AsSlice()...)
	ip := append([]byte{0x45, 0, 0, inner, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 10, 0, 0, 200}, to.AsSlice()...)
	var sum uint32
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	b = binary.BigEndian.AppendUint16(append(b, ip...), fromPort)
	b = binary.BigEndian.AppendUint16(b, toPort)
	return append(b, 0, 8, 0, 0) // length; no checksum
}
