package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"ingot/runtime/fault"
)

// tokenVersion starts every token.
const tokenVersion = "ingot1"

// A Token lets one host join. As text it is
//
//	ingot1.<id>.<secret>.<authority>
//
// id: 8 random bytes in hex, the name under which the server knows the token; secret: 32 random
// bytes, of which the server keeps only the SHA-256; authority: SHA-256 of the public key (PKIX,
// DER) of the installation's authority, by which the host knows the right server before it has any
// certificate. Both are base64url without padding.
type Token struct {
	ID        string
	Secret    [32]byte
	Authority [sha256.Size]byte
}

// NewToken makes a token for the installation whose authority has this hash.
func NewToken(authority [sha256.Size]byte) (Token, error) {
	t := Token{Authority: authority}
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return Token{}, fmt.Errorf("generate token: %w", err)
	}
	if _, err := rand.Read(t.Secret[:]); err != nil {
		return Token{}, fmt.Errorf("generate token: %w", err)
	}
	t.ID = hex.EncodeToString(id)
	return t, nil
}

// ParseToken reads a token's text. The error never repeats it.
func ParseToken(s string) (Token, error) {
	parts := strings.Split(strings.TrimSpace(s), ".")
	if len(parts) != 4 || parts[0] != tokenVersion {
		return Token{}, fmt.Errorf("join token: not of the form %s.<id>.<secret>.<authority>: %w", tokenVersion, fault.Invalid)
	}
	var t Token
	if id, err := hex.DecodeString(parts[1]); err != nil || len(id) != 8 {
		return Token{}, fmt.Errorf("join token: id is not 16 hex digits: %w", fault.Invalid)
	}
	t.ID = strings.ToLower(parts[1])
	if !decode(t.Secret[:], parts[2]) || !decode(t.Authority[:], parts[3]) {
		return Token{}, fmt.Errorf("join token: secret or authority is damaged: %w", fault.Invalid)
	}
	return t, nil
}

func decode(dst []byte, s string) bool {
	b, err := base64.RawURLEncoding.DecodeString(s)
	return err == nil && copy(dst, b) == len(dst) && len(b) == len(dst)
}

// Text is the token as it is given to the host. It is a secret.
func (t Token) Text() string {
	enc := base64.RawURLEncoding.EncodeToString
	return strings.Join([]string{tokenVersion, t.ID, enc(t.Secret[:]), enc(t.Authority[:])}, ".")
}

// String hides the secret from logs.
func (t Token) String() string { return tokenVersion + "." + t.ID }

// SecretHash is what the server keeps of the secret.
func (t Token) SecretHash() []byte {
	sum := sha256.Sum256(t.Secret[:])
	return sum[:]
}

// Matches compares the token's secret with a stored hash in constant time.
func (t Token) Matches(secretHash []byte) bool {
	return subtle.ConstantTimeCompare(t.SecretHash(), secretHash) == 1
}
