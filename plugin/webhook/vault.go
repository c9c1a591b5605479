package webhook

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/keygate-dev/keygate/plugin/management/audit"
	"github.com/keygate-dev/keygate/plugin/management/webhooks"
)

// MinSecret is the least number of bytes of a Vault's secret.
const MinSecret = 16

const (
	// vaultInfo binds the derived key to its use (RFC 5869, info).
	vaultInfo = "keygate vault 1"
	// checkpointInfo, followed by the store's name, binds the key that signs audit checkpoints to
	// its use.
	checkpointInfo = "keygate audit heads 1 "
	// vaultForm is the first byte of a sealed text, so that a later version can be distinguished.
	vaultForm = 1
)

var (
	_ webhooks.Sealer = (*Vault)(nil)
	_ audit.Signer    = (*Vault)(nil)
)

// Vault encrypts secrets that must be read again, with AES-256-GCM. The key is derived from a
// secret by HKDF-SHA256 (RFC 5869). A sealed text is one byte for the form, 12 random bytes, and
// the ciphertext; the form and the purpose are authenticated. A Vault also derives the keys that
// sign audit checkpoints, which are not stored. Safe for concurrent use.
type Vault struct {
	aead cipher.AEAD
	// root is the pseudorandom key (PRK in RFC 5869) from which further keys are derived.
	root []byte
}

// NewVault returns the vault of a secret of at least MinSecret bytes.
func NewVault(secret string) (*Vault, error) {
	if len(secret) < MinSecret {
		return nil, fmt.Errorf("the secret has %d bytes and needs at least %d: make one with `openssl rand -base64 32`", len(secret), MinSecret)
	}
	root, err := hkdf.Extract(sha256.New, []byte(secret), nil)
	if err != nil {
		return nil, err
	}
	key, err := hkdf.Expand(sha256.New, root, vaultInfo, 32)
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
	return &Vault{aead, root}, nil
}

// Seal encrypts plain for a purpose.
func (v *Vault) Seal(plain []byte, purpose string) ([]byte, error) {
	out := make([]byte, 1+v.aead.NonceSize(), 1+v.aead.NonceSize()+len(plain)+v.aead.Overhead())
	out[0] = vaultForm
	rand.Read(out[1:])
	return v.aead.Seal(out, out[1:], plain, additionalData(purpose)), nil
}

// Open decrypts a text that Seal returned for the same purpose and secret.
func (v *Vault) Open(sealed []byte, purpose string) ([]byte, error) {
	n := 1 + v.aead.NonceSize()
	if len(sealed) < n || sealed[0] != vaultForm {
		return nil, errSealed
	}
	plain, err := v.aead.Open(nil, sealed[1:n], sealed[n:], additionalData(purpose))
	if err != nil {
		return nil, errSealed
	}
	return plain, nil
}

// CheckpointKey implements audit.Signer. The key depends only on the secret and the store.
func (v *Vault) CheckpointKey(store string) (ed25519.PrivateKey, error) {
	seed, err := hkdf.Expand(sha256.New, v.root, checkpointInfo+store, ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

var errSealed = errors.New("the webhook's secret can't be decrypted: the configured secret is not the one it was stored under; configure that one again, or rotate the webhook's secret")

func additionalData(purpose string) []byte { return append([]byte{vaultForm}, purpose...) }
