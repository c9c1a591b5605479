//go:build screenshots

package e2e

import (
	"bytes"
	"cmp"
	"database/sql"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/keygate-dev/keygate/e2e/browser"
	"github.com/keygate-dev/keygate/internal/testkit"
)

// TestScreenshots makes the pictures of the README in the directory docs. `make screenshots` runs it.
func TestScreenshots(t *testing.T) {
	d := startConsole(t)
	keys := d.fill(t)
	d.past(t)
	desk, phone := browser.Desktop, browser.Phone
	tall := browser.View{Name: "tall", Width: 1280, Height: 1400}
	for _, p := range []struct {
		file, path string
		view       browser.View
		tenant     string
	}{
		{"overview-dark", "/overview", tall.InDark(), ""},
		{"keys", "/keys", desk, ""},
		{"key", "/keys/" + keys["site"].id, tall, ""},
		{"keys-phone", "/keys", phone, "acme"},
		{"create-phone", "/keys/new", phone.InDark(), "acme"},
		{"key-phone", "/keys/" + keys["site"].id + "?span=24h#usage", phone, "acme"},
	} {
		var tab *browser.Tab
		if p.tenant == "" {
			tab = d.operator(t, p.view)
		} else {
			tab = d.person(t, p.view, p.tenant, record{"return_url": "https://app.example.com/settings"})
		}
		tab.Go(p.path)
		file := shipped(t, "docs/console-"+p.file+".png")
		tab.Picture(file, false)
		shrink(t, file)
	}
	tab := d.operator(t, desk)
	tab.Go("/keys/new?tenant=acme")
	tab.Fill("label=Name", "Release robot")
	tab.Follow("button=Create")
	d.shownKey(t, tab)
	// The test replaces the key in the page, so that the picture shows a key that never existed.
	tab.Eval(`document.body.innerHTML = document.body.innerHTML.replaceAll(document.getElementById('secret').textContent, 'kg_live_ExampleExampleExampleExample00')`, nil)
	file := shipped(t, "docs/console-created.png")
	tab.Picture(file, false)
	shrink(t, file)
}

// past adds usage of the last day to the database, so that charts have content.
func (d *consoleSite) past(t testing.TB) {
	t.Helper()
	db, err := sql.Open("sqlite", d.database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	testkit.Eventually(t, "usage", func() bool {
		var n int
		return db.QueryRow(`SELECT count(*) FROM usage`).Scan(&n) == nil && n >= 4
	})
	for ago := range 23 {
		busy := 3 + (ago*7)%11 + 14*max(0, 12-abs(ago-10))
		testkit.Eventually(t, "the past", func() bool {
			_, err := db.Exec(`INSERT INTO usage SELECT keyspace, hour - ?, key_id, node || '-before', tenant, allowed * ? / 3 + 4 + requests - allowed, allowed * ? / 3 + 4, refused,
				upstream_errors + ? % 3, credits * ? / 3, bytes_in * ? + 900, bytes_out * ?, latency FROM usage WHERE node NOT LIKE '%-before'`,
				(ago+1)*3600, busy, busy, ago, busy, busy, busy)
			return err == nil
		})
	}
	time.Sleep(time.Second)
}

func abs(n int) int { return max(n, -n) }

// shrink reduces a picture to its 256 most frequent colours, which are nearly all colours of a
// page.
func shrink(t testing.TB, file string) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	from, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	uses := map[color.RGBA]int{}
	b := from.Bounds()
	at := func(x, y int) color.RGBA { return color.RGBAModel.Convert(from.At(x, y)).(color.RGBA) }
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			uses[at(x, y)]++
		}
	}
	most := slices.SortedFunc(maps.Keys(uses), func(a, b color.RGBA) int { return cmp.Compare(uses[b], uses[a]) })
	var palette color.Palette
	for _, c := range most[:min(256, len(most))] {
		palette = append(palette, c)
	}
	index := map[color.RGBA]uint8{}
	to := image.NewPaletted(b, palette)
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			c := at(x, y)
			i, ok := index[c]
			if !ok {
				i = uint8(palette.Index(c))
				index[c] = i
			}
			to.SetColorIndex(x, y, i)
		}
	}
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, to); err != nil {
		t.Fatal(err)
	}
	if out.Len() > 120<<10 {
		t.Errorf("%s has %d KiB", filepath.Base(file), out.Len()>>10)
	}
	if err := os.WriteFile(file, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
