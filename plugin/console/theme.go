package console

import (
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"
)

// DefaultTitle and DefaultColor are the defaults of a Brand.
const (
	DefaultTitle = "Keygate"
	DefaultColor = "#2f5d50"
)

// Brand is the look of a console, so that a tenant's pages look like the product's own pages.
type Brand struct {
	// Title is the product's name. Default: DefaultTitle.
	Title string
	// Color is the accent colour, as rgb or rrggbb, with or without #. A colour that would be hard
	// to read is made darker for light pages and lighter for dark pages. Default: DefaultColor.
	Color string
	// Logo is shown next to the title. Default: the mark of Keygate.
	Logo File
}

// File is an image file.
type File struct {
	Name string
	Data []byte
}

// maxLogo bounds the size of a logo in bytes, since every browser loads it on its first visit.
const maxLogo = 64 << 10

func (f File) kind() (string, error) {
	kind := kinds[strings.ToLower(path.Ext(f.Name))]
	if !strings.HasPrefix(kind, "image/") {
		return "", fmt.Errorf("logo: %s is not an image: its name must end in .svg, .png, .jpg, .webp, .gif or .ico", path.Base(f.Name))
	}
	if len(f.Data) > maxLogo {
		return "", fmt.Errorf("logo: %s has %d KiB, but a logo may have at most %d, since every browser loads it on its first visit", path.Base(f.Name), len(f.Data)>>10, maxLogo>>10)
	}
	return kind, nil
}

// Check returns an error for an invalid brand.
func (b Brand) Check() error {
	if _, err := b.theme(); err != nil {
		return err
	}
	if len(b.Logo.Data) > 0 {
		if _, err := b.Logo.kind(); err != nil {
			return err
		}
	}
	return nil
}

// rgb is an sRGB colour whose parts are between 0 and 1.
type rgb [3]float64

func parseColor(s string) (c rgb, err error) {
	digits := strings.TrimPrefix(s, "#")
	if len(digits) == 3 {
		digits = string([]byte{digits[0], digits[0], digits[1], digits[1], digits[2], digits[2]})
	}
	n, perr := strconv.ParseUint(digits, 16, 32)
	if len(digits) != 6 || perr != nil {
		return c, fmt.Errorf("color: '%s' is no colour: it is written rrggbb, such as %s", s, strings.TrimPrefix(DefaultColor, "#"))
	}
	return rgb{float64(n>>16) / 255, float64(n>>8&255) / 255, float64(n&255) / 255}, nil
}

func (c rgb) String() string {
	n := func(v float64) int { return int(math.Round(v * 255)) }
	return fmt.Sprintf("#%02x%02x%02x", n(c[0]), n(c[1]), n(c[2]))
}

// luminance returns the relative luminance as WCAG 2.2 defines it, from 0 to 1.
func (c rgb) luminance() float64 {
	lin := func(v float64) float64 {
		if v <= 0.04045 {
			return v / 12.92
		}
		return math.Pow((v+0.055)/1.055, 2.4)
	}
	return 0.2126*lin(c[0]) + 0.7152*lin(c[1]) + 0.0722*lin(c[2])
}

// contrast returns the contrast ratio as WCAG 2.2 defines it, from 1 to 21.
func contrast(a, b rgb) float64 {
	x, y := a.luminance(), b.luminance()
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

func mix(a, b rgb, share float64) (out rgb) {
	for i := range out {
		out[i] = a[i]*(1-share) + b[i]*share
	}
	return out
}

// readable returns c, mixed with just enough of to that its contrast with each of grounds is at
// least least.
func readable(c, to rgb, least float64, grounds ...rgb) rgb {
	for share := 0.0; share < 1; share += 0.02 {
		m := mix(c, to, share)
		ok := true
		for _, g := range grounds {
			ok = ok && contrast(m, g) >= least
		}
		if ok {
			return m
		}
	}
	return to
}

var (
	white = rgb{1, 1, 1}
	black = rgb{}
	// lightGround and the colours after it are background colours of console.css on which text has the accent colour.
	lightGround = mustColor("#f1f2ee")
	darkGround  = mustColor("#23282c")
	darkest     = mustColor("#0f1214")
)

func mustColor(s string) rgb {
	c, err := parseColor(s)
	if err != nil {
		panic(err)
	}
	return c
}

// mark returns the image that a console without a logo shows, in the brand's colour.
func (b Brand) mark(shape []byte) []byte {
	c, err := parseColor(b.Color)
	if err != nil {
		return shape
	}
	ground := readable(c, black, 3, white)
	return []byte(strings.Replace(string(shape), DefaultColor, ground.String(), 1))
}

// textContrast is slightly above the contrast of 4.5 that WCAG 2.2 requires for text, so that
// rounding does no harm.
const textContrast = 4.6

// theme returns a style sheet that sets the brand's colours for light and dark pages.
func (b Brand) theme() ([]byte, error) {
	if b.Color == "" {
		b.Color = DefaultColor
	}
	c, err := parseColor(b.Color)
	if err != nil {
		return nil, err
	}
	light := readable(c, black, textContrast, lightGround, white, mix(white, c, 0.1))
	dark := readable(c, white, textContrast, darkGround, darkest, mix(darkGround, c, 0.25))
	set := func(accent, on, soft, strong rgb) string {
		return fmt.Sprintf("--accent:%s;--on-accent:%s;--accent-soft:%s;--accent-strong:%s", accent, on, soft, strong)
	}
	return fmt.Appendf(nil, ":root{%s}\n@media (prefers-color-scheme:dark){:root{%s}}\n",
		set(light, white, mix(white, c, 0.1), mix(light, black, 0.18)),
		set(dark, readable(black, black, textContrast, dark), mix(darkGround, c, 0.25), mix(dark, white, 0.18))), nil
}
