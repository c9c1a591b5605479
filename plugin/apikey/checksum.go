package apikey

import "hash/crc32"

// checksumLength is how many base62 digits a CRC-32 takes: 62^6 > 2^32.
const checksumLength = 6

// checksum returns the CRC-32/IEEE of random as six base62 digits, most significant
// first, zero-padded: https://github.blog/2021-04-05-behind-githubs-new-authentication-token-formats/
func checksum(random string) (digits [checksumLength]byte) {
	// crc32.ChecksumIEEE needs a []byte, and that conversion would allocate. So this loop computes
	// the CRC from the table.
	crc := ^uint32(0)
	for i := range len(random) {
		crc = crc32.IEEETable[byte(crc)^random[i]] ^ crc>>8
	}
	crc = ^crc
	for i := checksumLength - 1; i >= 0; i-- {
		digits[i] = base62[crc%62]
		crc /= 62
	}
	return digits
}

// hasChecksum reports whether body ends in the checksum of its other characters.
func hasChecksum(body string) bool {
	n := len(body) - checksumLength
	if n < 0 {
		return false
	}
	want := checksum(body[:n])
	return body[n:] == string(want[:])
}
