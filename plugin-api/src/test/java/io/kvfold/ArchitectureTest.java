package io.kvfold;

import static com.tngtech.archunit.base.DescribedPredicate.describe;
import static com.tngtech.archunit.core.domain.JavaClass.Predicates.resideInAnyPackage;
import static com.tngtech.archunit.lang.conditions.ArchConditions.dependOnClassesThat;
import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.classes;
import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.methods;
import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.noClasses;

import com.tngtech.archunit.core.domain.JavaClass;
import com.tngtech.archunit.core.domain.JavaCodeUnit;
import com.tngtech.archunit.core.domain.JavaMethod;
import com.tngtech.archunit.core.importer.ImportOption;
import com.tngtech.archunit.junit.AnalyzeClasses;
import com.tngtech.archunit.junit.ArchTest;
import com.tngtech.archunit.lang.ArchCondition;
import com.tngtech.archunit.lang.ArchRule;
import com.tngtech.archunit.lang.ConditionEvents;
import com.tngtech.archunit.lang.SimpleConditionEvent;
import org.jspecify.annotations.NullMarked;

@AnalyzeClasses(packages = "io.kvfold", importOptions = ImportOption.DoNotIncludeTests.class)
class ArchitectureTest {

    private static final String JNA_PACKAGE = "io.kvfold.internal.jna";

    @ArchTest
    static final ArchRule onlyOnePackageKnowsJna = noClasses()
            .that()
            .resideOutsideOfPackage(JNA_PACKAGE)
            .should()
            .dependOnClassesThat()
            .resideInAPackage("com.sun.jna..");

    @ArchTest
    static final ArchRule onlyTheLibraryKnowsThatPackage = noClasses()
            .that()
            .resideOutsideOfPackage(JNA_PACKAGE)
            .and()
            .doNotBelongToAnyOf(NativeLibrary.class)
            .should()
            .dependOnClassesThat()
            .resideInAPackage(JNA_PACKAGE);

    @ArchTest
    static final ArchRule thatPackageHasOneWayIn = classes()
            .that()
            .resideInAPackage(JNA_PACKAGE)
            .and()
            .arePublic()
            .and()
            .areTopLevelClasses()
            .should()
            .haveSimpleName("JnaBridge");

    @ArchTest
    static final ArchRule callersSeeNoInternalType = methods()
            .that()
            .areDeclaredInClassesThat(
                    describe("callers see", c -> !c.getPackageName().startsWith("io.kvfold.internal") && isVisible(c)))
            .and(describe("are public or protected", ArchitectureTest::isVisible))
            .should(haveNoInternalTypeInTheirSignature());

    @ArchTest
    static final ArchRule filesAreReadWithoutTheEngine = noClasses()
            .that()
            .resideInAPackage("io.kvfold.gguf")
            .should(dependOnClassesThat(resideInAnyPackage("io.kvfold.internal..")))
            .allowEmptyShould(true);

    @ArchTest
    static final ArchRule publicClassesAreFinal = classes()
            .that()
            .arePublic()
            .and()
            .areNotInterfaces()
            .and()
            .areNotAnnotations()
            .and()
            .doNotHaveFullyQualifiedName(KvfoldException.class.getName())
            .should()
            .haveModifier(com.tngtech.archunit.core.domain.JavaModifier.FINAL);

    @ArchTest
    static final ArchRule everyPackageSaysWhatMayBeNull = classes()
            .should(new ArchCondition<JavaClass>("be in a @NullMarked package") {
                @Override
                public void check(JavaClass javaClass, ConditionEvents events) {
                    boolean marked = javaClass.getPackage().isAnnotatedWith(NullMarked.class);
                    events.add(new SimpleConditionEvent(javaClass, marked, javaClass.getPackageName()));
                }
            });

    private static boolean isVisible(JavaClass javaClass) {
        return javaClass.getModifiers().contains(com.tngtech.archunit.core.domain.JavaModifier.PUBLIC)
                && javaClass
                        .getEnclosingClass()
                        .map(ArchitectureTest::isVisible)
                        .orElse(true);
    }

    private static boolean isVisible(JavaCodeUnit method) {
        return method.getModifiers().contains(com.tngtech.archunit.core.domain.JavaModifier.PUBLIC)
                || method.getModifiers().contains(com.tngtech.archunit.core.domain.JavaModifier.PROTECTED);
    }

    private static ArchCondition<JavaMethod> haveNoInternalTypeInTheirSignature() {
        return new ArchCondition<>("have no internal type in their signature") {
            @Override
            public void check(JavaMethod method, ConditionEvents events) {
                method.getAllInvolvedRawTypes().stream()
                        .filter(type -> type.getPackageName().startsWith("io.kvfold.internal")
                                || type.getPackageName().startsWith("com.sun.jna"))
                        .forEach(type -> events.add(SimpleConditionEvent.violated(
                                method, method.getFullName() + " has " + type.getName())));
            }
        };
    }
}
