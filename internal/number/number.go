// Package number converts integers where the compiler, and a linter, cannot know that they fit.
package number

// Integer is any type of integer.
type Integer interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64
}

// As is n as an integer of another type. Its caller knows that n fits, and says why where that is not plain: a count is
// not negative, and there are fewer than 2^63 of anything. Or it means the bits of n, and not the number.
func As[To, From Integer](n From) To { return To(n) }
