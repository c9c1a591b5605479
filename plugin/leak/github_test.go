package leak

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"testing"
)

func public(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func listOf(t testing.TB, id, key string) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]any{"public_keys": []any{map[string]any{"key_identifier": id, "key": key, "is_current": true}}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func generate(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestVerify(t *testing.T) {
	key := generate(t, elliptic.P256())
	keys, err := ParseKeys(listOf(t, "k1", public(t, &key.PublicKey)))
	if err != nil {
		t.Fatal(err)
	}
	sign := func(key *ecdsa.PrivateKey, body string) string {
		sum := sha256.Sum256([]byte(body))
		sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(sig)
	}
	const body = `[{"token":"x"}]`
	if err := keys.Verify("k1", sign(key, body), []byte(body)); err != nil {
		t.Error(err)
	}
	for name, c := range map[string][3]string{
		"another body":      {"k1", sign(key, body), body + " "},
		"another key":       {"k1", sign(generate(t, elliptic.P256()), body), body},
		"unknown key":       {"k2", sign(key, body), body},
		"no identifier":     {"", sign(key, body), body},
		"no signature":      {"k1", "", body},
		"not base64":        {"k1", "!!!", body},
		"not ASN.1":         {"k1", base64.StdEncoding.EncodeToString([]byte("abc")), body},
		"shortened":         {"k1", sign(key, body)[:40], body},
		"followed by more":  {"k1", sign(key, body) + "AAAA", body},
		"of an empty body":  {"k1", sign(key, ""), body},
		"and an empty body": {"k1", sign(key, body), ""},
	} {
		if err := keys.Verify(c[0], c[1], []byte(c[2])); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseKeys(t *testing.T) {
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := public(t, &generate(t, elliptic.P256()).PublicKey)
	for name, b := range map[string][]byte{
		"empty": nil, "not JSON": []byte("x"), "no keys": []byte(`{}`), "none": []byte(`{"public_keys":[]}`),
		"not PEM": listOf(t, "a", "x"), "no identifier": listOf(t, "", good),
		"P-384": listOf(t, "a", public(t, &generate(t, elliptic.P384()).PublicKey)), "Ed25519": listOf(t, "a", public(t, edwards)),
		"not DER": listOf(t, "a", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
	} {
		if _, err := ParseKeys(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add(listOf(f, "a", "x"))
	f.Add([]byte(`{"public_keys":[null]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := ParseKeys(b); (k == nil) == (err == nil) {
			t.Errorf("%v, %v", k, err)
		}
	})
}
