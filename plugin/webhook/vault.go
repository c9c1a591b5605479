package webhook

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/keygate-dev/keygate/plugin/management"
)

// MinSecret is how many bytes a Vault's secret has at the least.
const MinSecret = 16

const (
	// vaultInfo binds the derived key to its use (RFC 5869, info).
	vaultInfo = "keygate vault 1"
	// vaultForm begins what Seal returns, so that another form can be told from it.
	vaultForm = 1
)

var _ management.Sealer = (*Vault)(nil)

// Vault encrypts what must be stored readably, with AES-256-GCM under a key derived from a
// secret by HKDF-SHA256 (RFC 5869). What it seals is the form, 12 random bytes, and the
// ciphertext; the form and the purpose are authenticated with it. Safe for concurrent use.
type Vault struct{ aead cipher.AEAD }

// NewVault returns the vault of a secret of at least MinSecret bytes.
func NewVault(secret string) (*Vault, error) {
	if len(secret) < MinSecret {
		return nil, fmt.Errorf("the secret has %d bytes and needs at least %d: make one with `openssl rand -base64 32`", len(secret), MinSecret)
	}
	key, err := hkdf.Key(sha256.New, []byte(secret), nil, vaultInfo, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &Vault{aead}, nil
}

// Seal encrypts plain for a purpose.
func (v *Vault) Seal(plain []byte, purpose string) ([]byte, error) {
	out := make([]byte, 1+v.aead.NonceSize(), 1+v.aead.NonceSize()+len(plain)+v.aead.Overhead())
	out[0] = vaultForm
	rand.Read(out[1:])
	return v.aead.Seal(out, out[1:], plain, bound(purpose)), nil
}

// Open decrypts what Seal returned for the same purpose under the same secret.
func (v *Vault) Open(sealed []byte, purpose string) ([]byte, error) {
	n := 1 + v.aead.NonceSize()
	if len(sealed) < n || sealed[0] != vaultForm {
		return nil, errSealed
	}
	plain, err := v.aead.Open(nil, sealed[1:n], sealed[n:], bound(purpose))
	if err != nil {
		return nil, errSealed
	}
	return plain, nil
}

var errSealed = errors.New("the webhook's secret can't be decrypted: the configured secret is not the one it was stored under; configure that one again, or rotate the webhook's secret")

func bound(purpose string) []byte { return append([]byte{vaultForm}, purpose...) }
