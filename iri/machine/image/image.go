// Package image owns the host's cache of machine images: it pulls OCI artifacts from registries
// and from layout directories, verifies every byte against its digest, and keeps each once. It
// never runs anything and never hands out a file that was not verified.
package image

// An Image is what a machine boots from, as files in the cache. They are read-only and shared.
type Image struct {
	// Reference is what was asked for, Digest the manifest it led to.
	Reference, Digest string
	// Kernel and Initramfs are set when the image boots directly. Cmdline is the image's, maybe empty.
	Kernel, Initramfs, Cmdline string
	// Disk is the content of the first disk, raw. Empty when the image has none.
	Disk string
}
