// Package leak reads the reports of leaked keys that GitHub's secret scanning sends to its partners.
//
// The format is at
// https://docs.github.com/en/code-security/secret-scanning/secret-scanning-partnership-program/secret-scanning-partner-program
package leak

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
)

// KeyIdentifier and KeySignature are the headers of a report: the id of the public key that
// verifies it, and the signature.
const (
	KeyIdentifier = "Github-Public-Key-Identifier"
	KeySignature  = "Github-Public-Key-Signature"
)

// ErrSignature is returned for a report that no known public key of GitHub verifies.
var ErrSignature = errors.New("the report is not signed by a known GitHub key")

// Keys are the public keys that GitHub signs with. Immutable.
type Keys struct {
	byID map[string]*ecdsa.PublicKey
}

// ParseKeys reads the response of https://api.github.com/meta/public_keys/secret_scanning. It
// accepts keys that are no longer current too, since they may have signed an earlier report. An
// error names the unusable key by its index.
func ParseKeys(b []byte) (*Keys, error) {
	var list struct {
		PublicKeys []struct {
			KeyIdentifier string `json:"key_identifier"`
			Key           string `json:"key"`
		} `json:"public_keys"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("the file is not GitHub's list of public keys: %w", err)
	}
	k := &Keys{byID: make(map[string]*ecdsa.PublicKey, len(list.PublicKeys))}
	for i, p := range list.PublicKeys {
		key, err := parseKey(p.Key)
		if err == nil && p.KeyIdentifier == "" {
			err = errors.New("the key has no key_identifier")
		}
		if err != nil {
			return nil, fmt.Errorf("public_keys[%d]: %w", i, err)
		}
		k.byID[p.KeyIdentifier] = key
	}
	if len(k.byID) == 0 {
		return nil, errors.New("the list holds no public_keys")
	}
	return k, nil
}

func parseKey(text string) (*ecdsa.PublicKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("the key is not PEM")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the key can't be read: %w", err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("the key is not ECDSA on P-256")
	}
	return key, nil
}

// Verify checks a report's signature: ECDSA over the SHA-256 of the body by the key with this
// identifier, as ASN.1 in base64. Its only error is ErrSignature.
func (k *Keys) Verify(identifier, signature string, body []byte) error {
	key := k.byID[identifier]
	if key == nil {
		return ErrSignature
	}
	sig, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		return ErrSignature
	}
	sum := sha256.Sum256(body)
	if !ecdsa.VerifyASN1(key, sum[:], sig) {
		return ErrSignature
	}
	return nil
}

// Token is one match in a report: a text that has the shape of a key, and where GitHub found it.
type Token struct {
	Token  string `json:"token"`
	Type   string `json:"type"`
	URL    string `json:"url"`
	Source string `json:"source"`
}

// TruePositive and FalsePositive are the labels of a Verdict.
const (
	TruePositive  = "true_positive"
	FalsePositive = "false_positive"
)

// Verdict is the answer to GitHub about one match: it states whether the match is a key.
type Verdict struct {
	// TokenHash is the SHA-256 of the match, in hexadecimal: the answer must not repeat a key.
	TokenHash string `json:"token_hash"`
	TokenType string `json:"token_type"`
	Label     string `json:"label"`
}

// Verdict returns the verdict on t.
func (t *Token) Verdict(isKey bool) Verdict {
	sum := sha256.Sum256([]byte(t.Token))
	v := Verdict{TokenHash: hex.EncodeToString(sum[:]), TokenType: t.Type, Label: FalsePositive}
	if isKey {
		v.Label = TruePositive
	}
	return v
}
