package bench

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// colours is the number of colours of bars (b0, b1, …) and of strokes (s0, s1, …).
const colours = 6

// style includes the background, because a viewer may give the image another colour scheme
// than the page around it. All bars have the same lightness, which contrasts with both
// backgrounds.
const style = `
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.head { font-weight: 600 }
.back { fill: #ffffff }
.grid { stroke: #d1d9e0 } .mark { stroke: #1f2328 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .back { fill: #0d1117 }
  .grid { stroke: #30363d } .mark { stroke: #e6edf3 }
}
.b0 { fill: #3b82f6 } .b1 { fill: #d97706 } .b2 { fill: #0d9488 } .b3 { fill: #a855f7 } .b4 { fill: #dc5f6b } .b5 { fill: #6b7d8f }
.s0 { stroke: #3b82f6 } .s1 { stroke: #d97706 } .s2 { stroke: #0d9488 } .s3 { stroke: #a855f7 } .s4 { stroke: #dc5f6b } .s5 { stroke: #6b7d8f }
line { stroke-width: 1.5; fill: none }
`

// An svg is a drawing that is being built. Its unit is a pixel.
type svg struct{ b strings.Builder }

func newSVG(width, height int) *svg {
	s := &svg{}
	fmt.Fprintf(&s.b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d">`+"\n<style>%s</style>\n", width, height, width, height, style)
	fmt.Fprintf(&s.b, `<rect class="back" width="%d" height="%d" rx="6"/>`+"\n", width, height)
	return s
}

func (s *svg) text(x, y int, class, anchor, text string) {
	fmt.Fprintf(&s.b, `<text x="%d" y="%d" class="%s" text-anchor="%s">%s</text>`+"\n", x, y, class, anchor, html.EscapeString(text))
}

func (s *svg) rect(x, y, width, height float64, colour int) {
	fmt.Fprintf(&s.b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="2" class="b%d"/>`+"\n", x, y, width, height, colour%colours)
}

func (s *svg) dot(x, y float64, colour int) {
	fmt.Fprintf(&s.b, `<circle cx="%.1f" cy="%.1f" r="3.5" class="b%d"/>`+"\n", x, y, colour%colours)
}

func (s *svg) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(&s.b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>`+"\n", x1, y1, x2, y2, class)
}

// whisker draws a horizontal line with a short vertical line at each end.
func (s *svg) whisker(low, high, y float64, class string) {
	s.line(low, y, high, y, class)
	s.line(low, y-3, low, y+3, class)
	s.line(high, y-3, high, y+3, class)
}

func (s *svg) end() string {
	s.b.WriteString("</svg>\n")
	return s.b.String()
}

// A logAxis maps values to pixels by their logarithm. Values beyond an end of the axis are
// mapped to that end.
type logAxis struct{ from, to, left, right float64 }

func (a logAxis) at(v float64) float64 {
	if a.to <= a.from {
		return (a.left + a.right) / 2
	}
	part := math.Log(v/a.from) / math.Log(a.to/a.from)
	return a.left + max(0, min(1, part))*(a.right-a.left)
}
