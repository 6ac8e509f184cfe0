package network

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"ingot/controlplane/api/v1alpha1"
	"ingot/controlplane/cidr"
)

// An Address is what became of one entry of an interface's ips.
type Address struct {
	// Address is valid once it is known.
	Address netip.Addr
	// Waits says what is missing; Fault, what is wrong.
	Waits, Fault string
}

// Facts are what an interface's status is made of.
type Facts struct {
	Spec *v1alpha1.NetworkInterfaceSpec
	UID  string
	// VNI is 0 until the network has one; then NetworkWaits says why.
	VNI          uint32
	NetworkWaits string
	Addresses    []Address
	// MAC is the one that the interface has already; empty for none.
	MAC string
	// AddressHolder and MACHolder name another interface of the network that has the address; "" for none.
	AddressHolder, MACHolder func(string) string
}

// A Verdict is the status of an interface. Waits and Faults are empty once it is available.
type Verdict struct {
	MAC           string
	IPs, Prefixes []string
	Waits, Faults []string
}

// State is that of the interface's status.
func (v Verdict) State() string {
	switch {
	case len(v.Faults) > 0:
		return Error
	case len(v.Waits) > 0:
		return Pending
	}
	return Available
}

// Message says what is wrong or missing.
func (v Verdict) Message() string { return strings.Join(append(v.Faults, v.Waits...), "; ") }

// Plan decides what an interface is.
func Plan(f Facts) Verdict {
	var v Verdict
	if f.VNI == 0 {
		v.Waits = append(v.Waits, f.NetworkWaits)
	}
	prefixes, err := cidr.Parse(f.Spec.GetPrefixes()...)
	if err != nil {
		v.Faults = append(v.Faults, err.Error())
	}
	v.Prefixes = cidr.Strings(prefixes)
	for i, a := range f.Addresses {
		switch {
		case a.Fault != "":
			v.Faults = append(v.Faults, a.Fault)
		case a.Waits != "":
			v.Waits = append(v.Waits, a.Waits)
		case !inFamily(a.Address, f.Spec.GetIpFamilies(), i):
			v.Faults = append(v.Faults, fmt.Sprintf("address %s is not %s, as ipFamilies says", a.Address, f.Spec.GetIpFamilies()[i]))
		default:
			if holder := f.holder(a.Address.String()); holder != "" {
				v.Faults = append(v.Faults, fmt.Sprintf("address %s is in use by network interface %q", a.Address, holder))
			}
			v.IPs = append(v.IPs, a.Address.String())
		}
	}
	if len(v.Faults) > 0 || len(v.Waits) > 0 {
		return Verdict{MAC: f.MAC, Waits: v.Waits, Faults: v.Faults}
	}
	v.MAC = f.MAC
	for salt := 0; v.MAC == "" || f.MACHolder(v.MAC) != ""; salt++ {
		v.MAC = MAC(f.UID, salt)
	}
	return v
}

func (f Facts) holder(address string) string {
	if f.VNI == 0 {
		return ""
	}
	return f.AddressHolder(address)
}

// inFamily holds when no family is given for position i, too.
func inFamily(a netip.Addr, families []string, i int) bool {
	return i >= len(families) || a.Is4() == (families[i] == "IPv4")
}

// MAC is a locally administered unicast address (IEEE 802-2014 8.2.2) that follows from uid; another
// salt gives another one.
func MAC(uid string, salt int) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d", uid, salt))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = 0x02
	return mac.String()
}
