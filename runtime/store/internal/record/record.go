// Package record owns how a resource is encoded at rest: a protobuf behind a checksum, sealed for
// the kinds that ask for it. It never touches a disk.
package record

//go:generate protoc -Iingot/store=. --plugin=protoc-gen-go=../../../../bin/protoc-gen-go --go_out=. --go_opt=module=ingot/runtime/store/internal/record ingot/store/record.proto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"google.golang.org/protobuf/proto"

	"ingot/runtime/fault"
	"ingot/runtime/resource"
	"ingot/runtime/store/seal"
)

// ErrCorrupt says that a record is not what was written.
var ErrCorrupt = errors.New("corrupt record")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const checksumBytes = 4

// A Codec encodes and decodes the resources of a schema. It is safe for concurrent use.
type Codec struct {
	schema *resource.Schema
	sealer seal.Sealer // nil: sealed kinds are refused
}

// NewCodec returns a codec; without a sealer it refuses resources of sealed kinds.
func NewCodec(schema *resource.Schema, sealer seal.Sealer) *Codec {
	return &Codec{schema: schema, sealer: sealer}
}

// Encode returns r as a record: a CRC-32C of key and message, big endian, then the message.
func (c *Codec) Encode(r *resource.Resource) ([]byte, error) {
	def, err := c.schema.Get(r.Kind)
	if err != nil {
		return nil, err
	}
	spec, err := proto.Marshal(r.Spec)
	if err != nil {
		return nil, fmt.Errorf("encode spec of %s: %w", r.Key, err)
	}
	rec := &Record{
		Uid: r.UID, Revision: r.Revision, Generation: r.Generation, Owner: r.Owner, Phase: uint32(r.Phase),
		Finalizers: r.Finalizers, CreatedUnixNano: r.Created.UnixNano(),
	}
	body := &Body{Labels: r.Labels, Annotations: r.Annotations, Spec: spec}
	rec.Content = &Record_Body{Body: body}
	if def.Sealed {
		sealed, err := c.seal(r, body)
		if err != nil {
			return nil, fmt.Errorf("seal %s: %w", r.Key, err)
		}
		rec.Content = &Record_Sealed{Sealed: sealed}
	}
	data, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, checksumBytes, 512), rec)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", r.Key, err)
	}
	binary.BigEndian.PutUint32(data, checksum(r.Key, data[checksumBytes:]))
	return data, nil
}

func (c *Codec) seal(r *resource.Resource, body *Body) ([]byte, error) {
	if c.sealer == nil {
		return nil, errNoSealer
	}
	plain, err := proto.Marshal(body)
	if err != nil {
		return nil, err
	}
	return c.sealer.Seal(plain, associated(r.Kind, r.UID))
}

var errNoSealer = fmt.Errorf("no key for sealed kinds is configured: %w", fault.Precondition)

// associated binds what is sealed to one resource: it opens nowhere else.
func associated(kind resource.Kind, uid string) []byte { return []byte(string(kind) + "\x00" + uid) }

// checksum covers the key, so that a record that lies at another's place is found out.
func checksum(key resource.Key, message []byte) uint32 {
	sum := crc32.Checksum([]byte(key.String()), castagnoli)
	return crc32.Update(sum, castagnoli, message)
}

// Decode returns the resource at key. Errors: ErrCorrupt, or that the sealer cannot open it.
func (c *Codec) Decode(key resource.Key, data []byte) (*resource.Resource, error) {
	def, err := c.schema.Get(key.Kind)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", key, err)
	}
	if len(data) < checksumBytes || binary.BigEndian.Uint32(data) != checksum(key, data[checksumBytes:]) {
		return nil, fmt.Errorf("decode %s: checksum does not match its %d bytes: %w", key, len(data), ErrCorrupt)
	}
	rec := &Record{}
	if err := proto.Unmarshal(data[checksumBytes:], rec); err != nil {
		return nil, fmt.Errorf("decode %s: %w: %w", key, ErrCorrupt, err)
	}
	body := rec.GetBody()
	if def.Sealed {
		if body, err = c.open(key.Kind, rec); err != nil {
			return nil, fmt.Errorf("open sealed %s: %w", key, err)
		}
	}
	spec := def.New()
	if err := proto.Unmarshal(body.GetSpec(), spec); err != nil {
		return nil, fmt.Errorf("decode spec of %s: %w: %w", key, ErrCorrupt, err)
	}
	return &resource.Resource{
		Meta: resource.Meta{
			Key: key, UID: rec.Uid, Revision: rec.Revision, Generation: rec.Generation, Owner: rec.Owner,
			Phase: resource.Phase(rec.Phase), Finalizers: rec.Finalizers, Labels: body.GetLabels(),
			Annotations: body.GetAnnotations(), Created: time.Unix(0, rec.CreatedUnixNano).UTC(),
		},
		Spec: spec,
	}, nil
}

func (c *Codec) open(kind resource.Kind, rec *Record) (*Body, error) {
	if c.sealer == nil {
		return nil, errNoSealer
	}
	plain, err := c.sealer.Open(rec.GetSealed(), associated(kind, rec.Uid))
	if err != nil {
		return nil, err
	}
	body := &Body{}
	if err := proto.Unmarshal(plain, body); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return body, nil
}
