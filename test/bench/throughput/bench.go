package throughput

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ingot/dataplane"
	"ingot/test/bench/result"
)

// Benches are the benchmarks of this package.
func Benches() []result.Bench {
	return []result.Bench{
		{Names: []string{"dataplane/tcp_stream", "dataplane/tcp_stream_vs_plain"}, Run: tcpStream},
		{Names: []string{"dataplane/tap_stream_wire"}, Run: tapStreamWire},
		{Names: []string{"dataplane/small_packets_cpu"}, Run: smallPackets},
	}
}

// Many short rounds stand the noise of a shared machine better than few long ones.
const (
	rounds = 15
	during = 400 * time.Millisecond
)

// A measurement is repeated on one path.
type measurement func(during time.Duration) (sample, error)

// on names the path in errors of m.
func (m measurement) on(p *path) measurement {
	return func(during time.Duration) (sample, error) {
		s, err := m(during)
		if err != nil {
			err = fmt.Errorf("%s: %w", p.name, err)
		}
		return s, err
	}
}

// interleave runs each measurement once a round, so that what disturbs the machine disturbs all
// alike, after a short round that counts for nothing. It returns the samples by measurement.
func interleave(ctx context.Context, rounds int, during time.Duration, all ...measurement) ([][]sample, error) {
	values := make([][]sample, len(all))
	for round := -1; round < rounds; round++ {
		for i, measure := range all {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if round < 0 {
				if _, err := measure(during / 4); err != nil {
					return nil, err
				}
				continue
			}
			value, err := measure(during)
			if err != nil {
				return nil, err
			}
			values[i] = append(values[i], value)
		}
	}
	return values, nil
}

// paths are laid together and taken down together.
type paths []*path

func buildAll(how setup, networks ...network) (paths, error) {
	var all paths
	for _, n := range networks {
		p, err := n.build(how)
		if err != nil {
			return nil, errors.Join(err, all.Close())
		}
		all = append(all, p)
	}
	return all, nil
}

func (all paths) Close() error {
	var errs []error
	for _, p := range all {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// streams measures TCP between namespaces behind veth, in Gbit.
func streams(ctx context.Context, rounds int, during time.Duration, networks ...network) (_ [][]sample, err error) {
	all, err := buildAll(setup{}, networks...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, all.Close()) }()
	var measurements []measurement
	for _, p := range all {
		c, err := dial(ctx, p)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		measurements = append(measurements, measurement(c.run).on(p))
	}
	return interleave(ctx, rounds, during, measurements...)
}

// tapStreams measures TCP between taps, in Gbit, over uplinks that carry frames of wire size.
func tapStreams(ctx context.Context, rounds int, during time.Duration, networks ...network) (_ [][]sample, err error) {
	all, err := buildAll(setup{taps: true, wire: true}, networks...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, all.Close()) }()
	var measurements []measurement
	for _, p := range all {
		s, err := connectTaps(p)
		if err != nil {
			return nil, err
		}
		measurements = append(measurements, measurement(s.run).on(p))
	}
	return interleave(ctx, rounds, during, measurements...)
}

// packetCosts measures small packets between taps.
func packetCosts(ctx context.Context, rounds int, during time.Duration, networks ...network) (_ [][]sample, err error) {
	all, err := buildAll(setup{taps: true, direct: true}, networks...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, all.Close()) }()
	var measurements []measurement
	for _, p := range all {
		packets, err := openPackets(p)
		if err != nil {
			return nil, err
		}
		measurements = append(measurements, measurement(packets.run).on(p))
	}
	return interleave(ctx, rounds, during, measurements...)
}

func tcpStream(ctx context.Context) ([]result.Result, error) {
	values, err := streams(ctx, rounds, during, ingot(dataplane.ReceiveAuto), bridge, plain)
	if err != nil {
		return nil, err
	}
	return []result.Result{
		result.New("dataplane/tcp_stream", "Gbit/s", result.RatioAtLeast(1.25), rates(values[0])...).Against(bridge.name, rates(values[1])...),
		result.New("dataplane/tcp_stream_vs_plain", "Gbit/s", result.RatioAtLeast(1), rates(values[0])...).Against(plain.name, rates(values[2])...),
	}, nil
}

// tapStreamWire reports the better of the two receive modes.
func tapStreamWire(ctx context.Context) ([]result.Result, error) {
	values, err := tapStreams(ctx, rounds, during, bridge, ingot(dataplane.ReceiveXDP), ingot(dataplane.ReceiveTC))
	if err != nil {
		return nil, err
	}
	best := slices.MaxFunc(values[1:], func(a, b []sample) int {
		return cmp.Compare(result.Median(rates(a)), result.Median(rates(b)))
	})
	return []result.Result{
		result.New("dataplane/tap_stream_wire", "Gbit/s", result.RatioAtLeast(1), rates(best)...).
			Against(fmt.Sprintf("%s, same taps", bridge.name), rates(values[0])...),
	}, nil
}

func smallPackets(ctx context.Context) ([]result.Result, error) {
	values, err := packetCosts(ctx, rounds, during, ingot(dataplane.ReceiveAuto), bridge)
	if err != nil {
		return nil, err
	}
	return []result.Result{
		result.New("dataplane/small_packets_cpu", "ns", result.RatioAtMost(0.34), nanoseconds(values[0])...).Against(bridge.name, nanoseconds(values[1])...),
	}, nil
}
